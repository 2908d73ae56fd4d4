"""Maps of a sample as files that become results: images to draw a band on, and parametric maps."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softfree.serving.errors import ServingError
from softfree.serving.hospital.maps import MapImage
from softfree.serving.hospital.received import ReceivedFile
from softfree.serving.records import JobState, ModelVersion, RenderTask, Sample, ServedModel
from softfree.serving.service import Service

logger = logging.getLogger(__name__)

_MAP = re.compile(r"map_(\d+)\.(png|npz)")  # the map over one image of the sample, and its numbers
_SLICE = "softfree.serving.hospital.drawings:strongest_slice"
_OVERVIEW = "softfree.serving.hospital.drawings:overview"
_PARAMETRIC = "softfree.serving.hospital.parametric:write_parametric_map"


@dataclass(frozen=True)
class SampleMaps:
    """The maps of one sample.

    Attributes:
        images: For secondary captures.
        files: Parametric maps, in the spool.
    """

    images: list[MapImage] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


class MapMaker:
    """Lets workers draw and write maps."""

    def __init__(self, service: Service, form: str | None) -> None:
        """Connect.

        Args:
            service: Has the maps of its jobs.
            form: ``capture``, ``parametric`` or ``both``; None: captures, and of slides both.
        """
        self._service, self._form = service, form

    async def of_sample(
        self, model: ServedModel, state: JobState, number: int, group: Sequence[ReceivedFile], seed: str, label: str
    ) -> SampleMaps:
        """Make the maps of a sample; without any it says why in the log.

        Args:
            model: The model.
            state: The ended job.
            number: Of the sample in the job.
            group: The files of the sample.
            seed: Makes the UIDs.
            label: Names the series in the log.
        """
        made, answer = SampleMaps(), state.answers[number]
        if answer is None or not (answer.files or answer.note):
            return made
        numbers = sorted({int(found[1]) for name in answer.files if (found := _MAP.fullmatch(name))})
        try:
            if not numbers:
                raise ServingError(answer.note or "this kind of sample has none")
            sample = await self._service.files(state.id, number)
        except ServingError as error:  # or held no longer: an earlier process ended, and this one came late
            logger.warning("%s: no map of %s: %s", label, model.name, error)
            return made
        form = self._form or ("both" if model.kind == "slide" else "capture")
        predicted = str(answer.row.get("predicted") or "")
        for image in numbers:
            flat = f"map_{image}.png" in answer.files
            own = _own_files(model, group, image, flat)
            has_numbers = f"map_{image}.npz" in answer.files
            without = ""
            try:
                if form != "capture" and has_numbers:
                    made.files.append(await self._parametric(answer.model, sample, own, image, predicted, seed))
            except ServingError as error:
                without = str(error)
                logger.warning("%s: no parametric map of %s: %s", label, model.name, error)
            try:
                if form != "parametric" or without or not has_numbers:
                    made.images.append(await self._image(model, sample, own, image, flat))
            except ServingError as error:
                logger.warning("%s: no map of %s: %s", label, model.name, error)
        return made

    async def _parametric(
        self, model: ModelVersion, sample: Sample, own: tuple[int, ...], image: int, predicted: str, seed: str
    ) -> Path:
        folder = self._service.spool.maps_of(sample.paths)
        out = folder / f"values-{image}.dcm"
        given = {"folder": folder, "number": image, "out": out, "model": model.name, "version": model.hash,
                 "predicted": predicted, "seed": seed}  # fmt: skip
        task = RenderTask(_PARAMETRIC, tuple(sample.paths[at] for at in own), given)
        await self._service.render(task, self._service.options.job_time_limit)  # nobody waits before a screen
        return out

    async def _image(
        self, model: ServedModel, sample: Sample, own: tuple[int, ...], image: int, flat: bool
    ) -> MapImage:
        folder = self._service.spool.maps_of(sample.paths)
        if flat:
            return MapImage(folder / f"map_{image}.png", own)
        given = {"folder": folder, "number": image}
        function = _OVERVIEW if model.kind == "slide" else _SLICE
        if function == _SLICE:
            given |= {
                "max_voxels": self._service.options.max_pixels,
                "rules": model.about.get("preprocessing", {}).get("rules"),
                "beside_others": model.kind == "case",
            }
        task = RenderTask(function, tuple(sample.paths[at] for at in own), given)
        drawn = await self._service.render(task, self._service.options.job_time_limit)
        file = folder / f"drawn-{image}.png"
        await asyncio.to_thread(file.write_bytes, drawn.body)
        return MapImage(file, own, drawn.headers["note"])


def _own_files(model: ServedModel, group: Sequence[ReceivedFile], image: int, flat: bool) -> tuple[int, ...]:
    """Return the numbers of the files of an image: a volume has its series, of a case that of its first file."""
    if model.kind == "image" or flat:
        return (image,)
    if model.kind != "case":
        return tuple(range(len(group)))
    return tuple(at for at, file in enumerate(group) if file.series == group[image].series)
