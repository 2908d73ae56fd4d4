"""A picture to explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from softfree.data.modalities.base import Preparation
from softfree.data.modalities.image import Preprocessing
from softfree.explain.captions import Words
from softfree.explain.dicom_file import write_secondary_capture
from softfree.explain.geometry import Places, picture_places
from softfree.explain.maps import Map
from softfree.explain.overlay import greatest, paint
from softfree.explain.pyramid_tiff import write_tiles
from softfree.explain.regions import Region
from softfree.explain.rendering import View, picture_view, rows_of
from softfree.explain.samples.base import THUMBNAIL, draw
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import read_picture
from softfree_runtime.readers.image import Picture

_LARGEST = 8192  # longest side of a picture that is a PNG pixel for pixel
_DICOM_SIDE, _DICOM_BYTES = 2**16 - 1, 2**32 - 2


@dataclass(frozen=True)
class PictureSample:
    """A picture; ``identity``, to copy the patient's, is for DICOM."""

    source: str
    picture: Picture
    tensor: Tensor
    places: Places
    frame: int | None
    identity: bool

    @classmethod
    def read(
        cls, steps: Preparation, source: str | Picture, frame: int | None, patch: int, identity: bool
    ) -> PictureSample:
        """Read and prepare a picture, or prepare one that is there; ``patch`` is the side of a patch in pixels."""
        assert isinstance(steps, Preprocessing)
        picture = source if isinstance(source, Picture) else read_picture(source, frame=frame)
        places = picture_places(steps, picture, patch)
        return cls(str(source), picture, torch.from_numpy(steps(picture)), places, frame, identity)

    def view(self, maps: Sequence[Map], longest: int) -> View:
        """View the picture, reduced where it is larger."""
        return picture_view(self.picture, tuple(one.values for one in maps), self.places, longest)

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: Words) -> None:
        """Write a PNG, a pyramidal TIFF, or DICOM."""
        if form == "png":
            longest = max(self.picture.pixels.shape[:2])
            draw(path, self.view(maps, longest if longest <= _LARGEST else THUMBNAIL), maps, words)
        elif form == "tiff":
            write_tiles(path, partial(rows_of, self.picture), maps[0].values, self.places, maps[0].signed)
        else:
            self._write_dicom(path, maps[0], words)

    def _write_dicom(self, path: Path, found: Map, words: Words) -> None:
        height, width = self.picture.pixels.shape[:2]
        if max(height, width) > _DICOM_SIDE or 3 * height * width > _DICOM_BYTES:
            raise ReadError(
                f"{self.source}: {width} x {height} pixels are more than DICOM holds; use --format tiff", "too_large"
            )
        painted = paint(self.picture.unit(), self.places.spread(found.values), greatest(found.values), found.signed)
        write_secondary_capture(path, painted, self.source, name=words.name, description=words.caption,
                                frame=self.frame, spacing=self.picture.spacing, identity=self.identity)  # fmt: skip
