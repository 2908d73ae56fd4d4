"""A complete series: to the models of its rule, and its results to whoever takes them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from softfree.serving.errors import Busy, NotFound, ServingError
from softfree.serving.hospital.findings import Findings, findings_of
from softfree.serving.hospital.incoming import short
from softfree.serving.hospital.map_results import MapMaker, SampleMaps
from softfree.serving.hospital.maps import write_map
from softfree.serving.hospital.outbox import Outbox
from softfree.serving.hospital.received import ReceivedFile, in_order_of_views, label_of, read_received
from softfree.serving.hospital.results import Reported, ReportedModel, make_report, read_header
from softfree.serving.hospital.routes import Routes, Rule, described
from softfree.serving.records import Answer, JobState, ModelVersion, Sample, ServedModel
from softfree.serving.service import Service
from softfree_runtime.core.errors import ReadError

logger = logging.getLogger(__name__)

_TOGETHER = ("volume", "slide", "case")  # kinds whose sample consists of all files of a series
_BUSY = 2.0  # seconds until a full queue is asked again, unless it says


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
        self._maps = MapMaker(service, service.options.dicom_maps)

    async def handle(self, folder: Path) -> None:
        """Predict a series or the case of a study, put its results into the outbox, and delete its files.

        Args:
            folder: All files of one series, or those of a study that a rule collects. If it is left over from an
                earlier process, its jobs are taken up.

        Raises:
            Exception: The first one that a model or its results ended with; those of the others are in the outbox.
        """
        files = await asyncio.to_thread(read_received, folder, self._routes.keywords)
        by_rule: dict[int, list[ReceivedFile]] = {}
        failure: Exception | None = None
        for file in files:
            by_rule.setdefault(self._routes.number_for(file.routing), []).append(file)
        for number, matching in by_rule.items():
            rule = None if number < 0 else self._routes.rules[number]
            if rule is None or not rule.models:
                why = "no rule matches" if rule is None else "as its rule says"
                logger.info("%s: left alone, %s (%s)", label_of(matching), why, described(matching[0].routing))
                continue
            for name in rule.models:
                note = folder / f"{number}-{short(name)}.job"
                try:
                    await self._predict(note, self._service.models[name], matching, rule)
                except Exception as error:  # such as a full disk: the files wait for the next start
                    failure = failure or error
        if failure is not None:
            raise failure
        await asyncio.to_thread(shutil.rmtree, folder)

    async def _predict(self, note: Path, model: ServedModel, files: list[ReceivedFile], rule: Rule) -> None:
        label = label_of(files)
        groups = [files] if model.kind in _TOGETHER else [[file] for file in files]
        if model.kind != "slide" and any(file.is_slide for file in files):
            logger.warning("%s: no result of %s: a slide, which it does not take", label, model.name)
            return
        if model.kind == "case":
            groups = [in_order_of_views(files, rule)]
            if not groups[0]:
                logger.warning("%s: no result of %s: no image is one of the views of its rule", label, model.name)
                return
            if absent := rule.absent(rule.needs, [file.view for file in groups[0]]):
                logger.info("%s: left alone by %s, which needs %s", label, model.name, " and ".join(absent))
                return
        try:
            state, digests = await self._answered(note, model, groups, rule)
            seed = sha256("".join(digests).encode()).hexdigest()
            maps = [
                await self._maps.of_sample(model, state, number, group, seed, label)
                for number, group in enumerate(groups)
            ]
            written = await asyncio.to_thread(self._write, model, groups, state, maps, seed, rule, label)
            self._service.spool.remove(path for each in maps for path in (*each.files, *(i.file for i in each.images)))
        except (ServingError, ReadError) as error:
            logger.warning("%s: no result of %s: %s", label, model.name, _reason(error))
            return
        if state.error:
            logger.warning("%s: %s: %s", label, model.name, state.error)
        if written:
            logger.info("%s: %d of %d samples reported by %s", label, written, len(groups), model.name)
            self._outbox.notify()

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
        maps: Sequence[SampleMaps],
        seed: str,
        rule: Rule,
        label: str,
    ) -> int:
        """Put reports and maps of the samples that have an answer into the outbox, and return the number of samples.

        There is a report for each file of the model that answered: it may have been replaced while the job waited.
        """
        reported: dict[ModelVersion, list[Reported]] = {}
        answered = []
        for group, answer, own in zip(groups, state.answers, maps, strict=True):
            if answer is None or answer.row["status"] != "ok":
                reason = "no answer" if answer is None else _without_path(answer.row["reason"])
                logger.warning("%s: no result of %s for %d file(s): %s", label, model.name, len(group), reason)
                continue
            try:
                sources = tuple(read_header(file.path) for file in group)
            except ReadError as error:
                logger.warning("%s: no result of %s: %s", label, model.name, error.reason)
                continue
            findings = _findings(model, answer, rule, group)
            reported.setdefault(answer.model, []).append(Reported(findings, sources, steps=tuple(answer.steps)))
            answered.append((group, str(answer.row.get("predicted") or ""), own))
        if not reported:
            return 0
        with self._outbox.new() as folder:
            for number, (version, samples) in enumerate(reported.items()):
                report = make_report(ReportedModel(version.name, version.version, version.hash), samples, seed=seed)
                report.save_as(folder / f"report{number or ''}.dcm", enforce_file_format=True)
            captures = [(image, group, said) for group, said, own in answered for image in own.images]
            for number, (image, group, said) in enumerate(captures):
                files = [file.path for file in group]
                try:
                    write_map(folder / f"map-{number}.dcm", image, files, model=model.name, predicted=said, seed=seed)
                except ReadError as error:
                    logger.warning("%s: no map of %s: %s", label, model.name, error.reason)
            for number, file in enumerate(file for _, _, own in answered for file in own.files):
                shutil.move(file, folder / f"values-{number}.dcm")
        return len(answered)


def _findings(model: ServedModel, answer: Answer, rule: Rule, group: Sequence[ReceivedFile]) -> Findings:
    """Return what a report says, with what the model had to do without."""
    targets = tuple(model.about.get("targets") or ())
    coverage = model.about.get("coverage") if answer.model == model.version else None
    findings = findings_of(answer.row, targets, coverage)
    if model.kind == "case":
        if absent := rule.absent(tuple(rule.views), [file.view for file in group]):
            findings.words.append(f"The model has answered without views that were not there: {', '.join(absent)}.")
        if reason := str(answer.row.get("reason") or ""):
            findings.words.append(f"The model has answered without some images: {_without_path(reason)}")
    return findings


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
