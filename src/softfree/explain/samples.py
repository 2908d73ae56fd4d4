"""A sample of each kind with its tensor, the places of its tokens, and the files that its map is written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from softfree.data.channel_rules import ChannelRules
from softfree.data.preparation import Preparation
from softfree.data.readers import read_picture
from softfree.data.readers.picture import Picture
from softfree.data.readers.series_files import is_dicom
from softfree.data.readers.slide import open_slide
from softfree.data.readers.volume import Volume
from softfree.data.slides import SlidePreprocessing
from softfree.data.sources import split_source
from softfree.data.tissue import find_tissue
from softfree.data.transforms import Preprocessing
from softfree.data.volume_files import read_volume
from softfree.data.volumes import VolumePreprocessing
from softfree.errors import ReadError, UserError
from softfree.explain.dicom_file import write_secondary_capture
from softfree.explain.maps import Map
from softfree.explain.overlay import draw_overlay, greatest, paint
from softfree.explain.places import Places, picture_places, slide_places, volume_places
from softfree.explain.regions import Region
from softfree.explain.slide_files import view, write_geojson, write_pyramid
from softfree.explain.tiles import write_tiles
from softfree.explain.views import View, picture_view, rows_of
from softfree.explain.volume_file import on_voxels, write_nifti
from softfree.models.classifier import Classifier

# What a map of each kind may be written as, the default first; all of a tuple are written together.
FORMATS: dict[str, dict[str | None, tuple[str, ...]]] = {
    "picture": {None: ("png",), "png": ("png",), "dicom": ("dicom",), "tiff": ("tiff",)},
    "volume": {None: ("nifti",), "nifti": ("nifti",), "png": ("png",)},
    "slide": {None: ("geojson", "tiff"), "geojson": ("geojson",), "tiff": ("tiff",), "png": ("png",)},
}
ENDINGS = {"png": ".png", "dicom": ".dcm", "nifti": ".nii.gz", "geojson": ".geojson", "tiff": ".tiff"}
_LARGEST = 8192  # longest side of a picture that is a PNG pixel for pixel
_THUMBNAIL = 2048  # longest side of the PNG of a larger one, and of a slide
_DICOM_SIDE, _DICOM_BYTES = 2**16 - 1, 2**32 - 2


@dataclass(frozen=True)
class Words:
    """What is written beside a map: what it shows, what that means, and the class."""

    title: str
    caption: str
    target: str


class Sample(Protocol):
    """A sample that can be explained."""

    @property
    def tensor(self) -> Tensor:
        """What the model takes."""
        ...

    @property
    def places(self) -> Places:
        """Where the tokens lie in what was read."""
        ...

    def view(self, found: Map, longest: int) -> View:
        """Lay a map over a picture of the sample, about ``longest`` pixels a side at most."""
        ...

    def write(self, form: str, path: Path, found: Map, regions: list[Region], words: Words) -> None:
        """Write a map in one of the formats of the sample's kind."""
        ...


@dataclass(frozen=True)
class PictureSample:
    """A picture; ``identity`` is for DICOM."""

    source: str
    picture: Picture
    tensor: Tensor
    places: Places
    frame: int | None
    identity: bool

    def view(self, found: Map, longest: int) -> View:
        """View the picture, reduced where it is larger."""
        return picture_view(self.picture, found.values, self.places, longest)

    def write(self, form: str, path: Path, found: Map, regions: list[Region], words: Words) -> None:
        """Write a PNG, a pyramidal TIFF, or DICOM."""
        height, width = self.picture.pixels.shape[:2]
        if form == "png":
            longest = max(height, width)
            _draw(path, self.view(found, longest if longest <= _LARGEST else _THUMBNAIL), found, words)
            return
        if form == "tiff":
            write_tiles(path, partial(rows_of, self.picture), found.values, self.places, found.signed)
            return
        if max(height, width) > _DICOM_SIDE or 3 * height * width > _DICOM_BYTES:
            raise ReadError(
                f"{self.source}: {width} x {height} pixels are more than DICOM holds; use --format tiff", "too_large"
            )
        painted = paint(self.picture.unit(), self.places.spread(found.values), greatest(found.values), found.signed)
        write_secondary_capture(path, painted, self.source, name=words.title, description=words.caption,
                                frame=self.frame, spacing=self.picture.spacing, identity=self.identity)  # fmt: skip


@dataclass(frozen=True)
class VolumeSample:
    """A volume, with the sides of a patch in voxels."""

    source: str
    volume: Volume
    steps: VolumePreprocessing
    tensor: Tensor
    places: Places
    patch: tuple[int, int, int]

    def write(self, form: str, path: Path, found: Map, regions: list[Region], words: Words) -> None:
        """Write NIfTI, or a PNG of the slice with the strongest values."""
        if form == "nifti":
            voxels = on_voxels(found.values, self.steps, self.volume, self.patch)
            write_nifti(path, voxels, self.volume, self.source, words.title)
            return
        _draw(path, self.view(found, _THUMBNAIL), found, words)

    def view(self, found: Map, longest: int) -> View:
        """View the slice with the strongest values, whatever its size."""
        layer = int(np.abs(found.values).sum(axis=(1, 2)).argmax())
        middle = (self.places.edges(0, layer) + self.places.edges(0, layer + 1)) / 2
        number = min(int(middle), self.volume.voxels.shape[1] - 1)
        # Seen from the feet, the front above and the patient's right on the left, as radiologists do.
        shown = self._unit(self.volume.voxels[0, number].astype(np.float32))[::-1, ::-1]
        note = f"slice {number + 1} of {self.volume.voxels.shape[1]} from the feet"
        return View(shown, found.values[layer, ::-1, ::-1], self._flipped(found.values.shape), note)

    def _flipped(self, grid: tuple[int, ...]) -> Places:
        """Places of a slice whose rows and columns run the other way."""
        places = self.places
        sides = places.shape[1:]
        ends = [first + count * step for first, count, step in zip(places.start, grid, places.step, strict=True)][1:]
        start = tuple(side - end for side, end in zip(sides, ends, strict=True))
        seen = tuple((side - high, side - low) for side, (low, high) in zip(sides, places.seen[1:], strict=True))
        return Places(start, places.step[1:], seen, sides)

    @staticmethod
    def _unit(voxels: np.ndarray) -> np.ndarray:
        low, high = np.percentile(voxels, (0.5, 99.5))
        return np.clip((voxels - low) / max(high - low, 1e-6), 0, 1)


@dataclass(frozen=True)
class SlideSample:
    """A slide, opened again to be drawn."""

    source: str
    tensor: Tensor
    places: Places

    def write(self, form: str, path: Path, found: Map, regions: list[Region], words: Words) -> None:
        """Write GeoJSON, a pyramidal TIFF, or a PNG of the whole slide."""
        if form == "geojson":
            write_geojson(path, regions, self.places, words.target)
            return
        if form == "png":
            _draw(path, self.view(found, _THUMBNAIL), found, words)
            return
        with open_slide(*split_source(self.source)) as slide:
            write_pyramid(path, slide, found.values, self.places, found.signed)

    def view(self, found: Map, longest: int) -> View:
        """View the whole slide."""
        with open_slide(*split_source(self.source)) as slide:
            pixels, places = view(slide, self.places, longest)
        return View(pixels / np.float32(255), found.values, places)


@dataclass(frozen=True)
class Opener:
    """Opens the samples of a run.

    Args:
        steps: of the run.
        model: of the run.
        form: of the files, or None for the kind's own.
        identity: copy the patient's identity into DICOM files.

    Raises:
        UserError: samples that have no picture to lie a map over, or a format that is not for them.
    """

    steps: Preparation
    model: Classifier
    form: str | None = None
    identity: bool = False

    def __post_init__(self) -> None:
        kind = self.steps.kind
        if kind not in FORMATS:
            raise UserError(
                f"a run on samples of kind {kind} has no pixels to lay a map over; "
                "use softfree.explain.maps.explain_tensor for the values of its tiles"
            )
        if self.form not in FORMATS[kind]:
            known = ", ".join(form for form in FORMATS[kind] if form)
            raise UserError(f"--format {self.form} is not for samples of kind {kind}; expected {known}")

    @property
    def forms(self) -> tuple[str, ...]:
        """What is written of each sample."""
        return FORMATS[self.steps.kind][self.form]

    def __call__(self, source: str | Picture, frame: int | None = None) -> Sample:
        """Read and prepare a sample; ReadError where it gives none."""
        return self._open(source, frame)

    @cached_property
    def _open(self) -> Callable[[str | Picture, int | None], Sample]:
        return {"picture": self._picture, "volume": self._volume, "slide": self._slide}[self.steps.kind]

    def _picture(self, source: str | Picture, frame: int | None) -> Sample:
        assert isinstance(self.steps, Preprocessing)
        if self.form == "dicom" and not (isinstance(source, str) and is_dicom(Path(source))):
            message = f"{source}: --format dicom refers to a DICOM source, and this is none; use --format png"
            raise ReadError(message, "unsupported")
        picture = source if isinstance(source, Picture) else read_picture(source, frame=frame)
        places = picture_places(self.steps, picture, self._patch[0])
        tensor = torch.from_numpy(self.steps(picture))
        return PictureSample(str(source), picture, tensor, places, frame, self.identity)

    def _volume(self, source: str | Picture, frame: int | None) -> Sample:
        assert isinstance(self.steps, VolumePreprocessing)
        assert isinstance(source, str)
        rules = None if self.steps.rules is None else ChannelRules.parse(self.steps.rules)
        volume = read_volume(source, frame, rules)
        tensor = torch.from_numpy(self.steps.load(volume))
        places = volume_places(self.steps, volume, self._patch)
        return VolumeSample(source, volume, self.steps, tensor, places, self._patch)

    def _slide(self, source: str | Picture, frame: int | None) -> Sample:
        assert isinstance(self.steps, SlidePreprocessing)
        assert isinstance(source, str)
        tensor = torch.from_numpy(self.steps.load(source, frame))
        with open_slide(*split_source(source)) as slide:
            box = find_tissue(slide).box_mm() if self.steps.tissue else (0.0, 0.0, *slide.size_mm)
            prepared = (tensor.shape[1], tensor.shape[2])
            places = slide_places(slide, box, prepared, self.steps.mpp, self._patch[0])
        return SlideSample(source, tensor, places)

    @cached_property
    def _patch(self) -> tuple[int, int, int]:
        """Sides of a patch, equal ones of a picture."""
        sides = self.model.patch_size
        return (sides,) * 3 if isinstance(sides, int) else tuple(sides)  # type: ignore[arg-type]


def _draw(path: Path, view: View, found: Map, words: Words) -> None:
    title = f"{words.title}, {view.note}" if view.note else words.title
    draw_overlay(path, view.picture, view.values, title=title, caption=words.caption, places=view.places,
                 signed=found.signed)  # fmt: skip
