"""A complete series: to the models of its rule, and its results to whoever takes them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from softfree.serving.errors import Busy, NotFound, ServingError
from softfree.serving.hospital.findings import findings_of
from softfree.serving.hospital.incoming import short
from softfree.serving.hospital.maps import MapImage, write_map
from softfree.serving.hospital.outbox import Outbox
from softfree.serving.hospital.results import Reported, ReportedModel, make_report, own_result, read_header
from softfree.serving.hospital.routes import Routes, Rule, described
from softfree.serving.records import JobState, RenderTask, Sample, ServedModel
from softfree.serving.service import Service
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.quiet import quiet

logger = logging.getLogger(__name__)

_TOGETHER = ("volume", "slide", "case")  # kinds whose sample consists of all files of a series
_MAP = re.compile(r"map_\d+\.png")  # the map over one image of the sample, among an answer's files
_SLICE = "softfree.serving.hospital.slices:strongest_slice"
_BUSY = 2.0  # seconds until a full queue is asked again, unless it says


@dataclass(frozen=True)
class ReceivedFile:
    """A file of a series.

    Attributes:
        path: The file.
        routing: The elements for rules.
        view: Of an image of a case, if a rule says it.
    """

    path: Path
    routing: Dataset
    view: str = ""


class Gateway:
    """From complete series to results."""

    def __init__(self, service: Service, routes: Routes, outbox: Outbox, who: str) -> None:
        """Connect.

        Args:
            service: Predicts.
            routes: Which files go to which model.
            outbox: Takes the results.
            who: The entrance, for the audit log.
        """
        self._service, self._routes, self._outbox, self._who = service, routes, outbox, who

    async def handle(self, folder: Path) -> None:
        """Predict a series, put its results into the outbox, and delete its files.

        Args:
            folder: All files of one series. If it is left over from an earlier process, its jobs are taken up.
        """
        files = await asyncio.to_thread(self._read, folder)
        by_rule: dict[int, list[ReceivedFile]] = {}
        for file in files:
            by_rule.setdefault(self._routes.number_for(file.routing), []).append(file)
        for number, matching in by_rule.items():
            rule = None if number < 0 else self._routes.rules[number]
            if rule is None or not rule.models:
                why = "no rule matches" if rule is None else "as its rule says"
                logger.info("%s: left alone, %s (%s)", _label(matching), why, described(matching[0].routing))
                continue
            for name in rule.models:
                note = folder / f"{number}-{short(name)}.job"
                await self._predict(note, self._service.models[name], matching, rule)
        await asyncio.to_thread(shutil.rmtree, folder)

    def _read(self, folder: Path) -> list[ReceivedFile]:
        """Read what rules need; results of softfree, and files that are no DICOM, are left out."""
        tags = [*self._routes.keywords, "Manufacturer", "SeriesInstanceUID", "InstanceNumber", "Rows"]
        files = []
        for path in sorted(folder.glob("*.dcm")):
            with quiet():
                try:
                    header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
                    if own_result(header) or "Rows" not in header:
                        continue  # a result, or a document without pixels
                    number = int(header.get("InstanceNumber") or 0)
                except Exception:  # pydicom raises almost any exception on damaged elements
                    logger.warning("a file of a series was left alone: its header is damaged")
                    continue
            files.append((number, path.name, ReceivedFile(path, header)))
        return [file for _, _, file in sorted(files, key=lambda entry: entry[:2])]

    async def _predict(self, note: Path, model: ServedModel, files: list[ReceivedFile], rule: Rule) -> None:
        label = _label(files)
        groups = [files] if model.kind in _TOGETHER else [[file] for file in files]
        if model.kind == "case":
            groups = [_in_order_of_views(files, rule)]
            if not groups[0]:
                logger.warning("%s: no result of %s: no image is one of the views of its rule", label, model.name)
                return
        try:
            state, digests = await self._answered(note, model, groups, rule)
            map_images = [await self._map_images_of(model, state, number) for number in range(len(groups))]
            written = await asyncio.to_thread(self._write, model, groups, state, map_images, digests, label)
            self._service.spool.remove(map_image.file for each in map_images for map_image in each)
        except (ServingError, ReadError) as error:
            logger.warning("%s: no result of %s: %s", label, model.name, _reason(error))
            return
        if state.error:
            logger.warning("%s: %s: %s", label, model.name, state.error)
        if written:
            logger.info("%s: %d of %d samples reported by %s", label, written, len(groups), model.name)
            self._outbox.notify()

    async def _map_images_of(self, model: ServedModel, state: JobState, number: int) -> list[MapImage]:
        """Return the maps of a sample as images, one for each of its images; none if there are none."""
        answer = state.answers[number]
        if answer is None or not answer.files:
            return []
        try:
            sample = await self._service.files(state.id, number)
        except ServingError:  # held no longer: an earlier process ended, and this one came late
            return []
        folder = self._service.spool.maps_of(sample.paths)
        names = sorted(filter(_MAP.fullmatch, answer.files), key=lambda name: int(name[4:-4]))
        if names:
            return [MapImage(folder / name, (index,)) for index, name in enumerate(names)]
        return [await self._slice_of(model, sample, folder)] if model.kind == "volume" else []

    async def _slice_of(self, model: ServedModel, sample: Sample, folder: Path) -> MapImage:
        """Let a worker draw a slice of a volume with its map."""
        rules = model.about.get("preprocessing", {}).get("rules")
        given = {"map_path": folder / "map_0.npz", "max_voxels": self._service.options.max_pixels, "rules": rules}
        drawn = await self._service.render(RenderTask(_SLICE, sample.paths, given))
        file = folder / "slice.png"
        await asyncio.to_thread(file.write_bytes, drawn.body)
        return MapImage(file, tuple(range(len(sample.paths))), drawn.headers["slice"])

    async def _answered(
        self, note: Path, model: ServedModel, groups: list[list[ReceivedFile]], rule: Rule
    ) -> tuple[JobState, list[str]]:
        """Return the ended job of the samples, and their digests; the job is the one of an earlier process, if any."""
        if note.is_file():
            job, digests = json.loads(note.read_text())
            try:
                return await self._service.wait(job), digests
            except NotFound:
                pass  # the store was cleared meanwhile
        while True:
            samples = await asyncio.to_thread(self._samples, model, groups, rule)
            try:
                job = await self._service.submit(
                    model.name, samples, explain=rule.explain, who=self._who, entrance="dicom"
                )
            except Busy as busy:
                self._delete(samples)
                await asyncio.sleep(_BUSY if busy.retry_after is None else busy.retry_after)
            except BaseException:
                self._delete(samples)
                raise
            else:
                break
        digests = [sample.digest for sample in samples]
        note.write_text(json.dumps([job, digests]))
        return await self._service.wait(job), digests

    def _samples(self, model: ServedModel, groups: list[list[ReceivedFile]], rule: Rule) -> list[Sample]:
        """Give the spool its own files, which it deletes after the answer."""
        samples = []
        for number, group in enumerate(groups):
            folder = self._service.spool.new_folder()
            paths = []
            for file in group:
                paths.append(folder / file.path.name)
                _link(file.path, paths[-1])
            views = tuple(file.view for file in group) if rule.views else None
            digest, case = _digest(paths), model.kind == "case"
            samples.append(Sample(tuple(paths), views=views, digest=digest, name=f"image {number + 1}", case=case))
        return samples

    def _delete(self, samples: Sequence[Sample]) -> None:
        self._service.spool.remove(path for sample in samples for path in sample.paths)

    def _write(
        self,
        model: ServedModel,
        groups: list[list[ReceivedFile]],
        state: JobState,
        map_images: Sequence[Sequence[MapImage]],
        digests: list[str],
        label: str,
    ) -> int:
        """Put the report and maps of the samples that have an answer into the outbox, and return their number."""
        targets, coverage = tuple(model.about.get("targets") or ()), model.about.get("coverage")
        reported, maps = [], []
        for group, answer, own in zip(groups, state.answers, map_images, strict=True):
            if answer is None or answer.row["status"] != "ok":
                reason = "no answer" if answer is None else _without_path(answer.row["reason"])
                logger.warning("%s: no result of %s for %d file(s): %s", label, model.name, len(group), reason)
                continue
            try:
                sources = tuple(read_header(file.path) for file in group)
            except ReadError as error:
                logger.warning("%s: no result of %s: %s", label, model.name, error.reason)
                continue
            findings = findings_of(answer.row, targets, coverage)
            reported.append(Reported(findings, sources, steps=tuple(answer.steps)))
            predicted = str(answer.row.get("predicted") or "")
            if own and (model.kind != "case" or len(own) == len(group)):
                maps += [(map_image, [file.path for file in group], predicted) for map_image in own]
            elif answer.note or answer.files:
                reason = answer.note or "this kind of sample has none, or not one for each of its images"
                logger.warning("%s: no map of %s: %s", label, model.name, reason)
        if not reported:
            return 0
        who = ReportedModel(model.name, state.model.version, state.model.hash)  # which may have been replaced since
        seed = sha256("".join(digests).encode()).hexdigest()
        with self._outbox.new() as folder:
            make_report(who, reported, seed=seed).save_as(folder / "report.dcm", enforce_file_format=True)
            for number, (map_image, files, predicted) in enumerate(maps):
                path = folder / f"map-{number}.dcm"
                try:
                    write_map(path, map_image, files, model=model.name, predicted=predicted, seed=seed)
                except ReadError as error:
                    logger.warning("%s: no map of %s: %s", label, model.name, error.reason)
        return len(reported)


def _in_order_of_views(files: Sequence[ReceivedFile], rule: Rule) -> list[ReceivedFile]:
    """Return the images of a case in the order in which the model has them, by view and file."""
    if rule.views:
        known = ((file, rule.view_of(file.routing)) for file in files)
        files = [replace(file, view=view) for file, view in known if view is not None]
    return sorted(files, key=lambda file: (file.view, file.path.name))


def _label(files: list[ReceivedFile]) -> str:
    """Name a series for a log: so that its lines belong together, without saying whose it is."""
    return f"series {short(files[0].routing.get('SeriesInstanceUID'))} ({len(files)} files)"


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ReadError) else str(error)


def _without_path(reason: str) -> str:
    """Return the reason of a row without the name of the sample before it."""
    return reason.partition(": ")[2] or reason


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _digest(paths: Sequence[Path]) -> str:
    digest = sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
