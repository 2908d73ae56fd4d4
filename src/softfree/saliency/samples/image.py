"""An image to explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from softfree.data.modalities.image import ImagePreprocessing
from softfree.saliency.captions import MapText
from softfree.saliency.dicom_file import write_secondary_capture
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.maps import Map
from softfree.saliency.overlay import max_magnitude, paint
from softfree.saliency.pyramid_tiff import write_tiles
from softfree.saliency.regions import Region
from softfree.saliency.rendering import RenderedMap, render_image, unit_rows
from softfree.saliency.samples.opener import THUMBNAIL, SampleOpener, draw
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import read_image
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.sample_source import SampleSource, file_of

_LARGEST = 8192  # longest side of an image that becomes a PNG pixel for pixel
_DICOM_SIDE, _DICOM_BYTES = 2**16 - 1, 2**32 - 2


@dataclass(frozen=True)
class ImageSample:
    """An image; ``identity`` copies the patient's identity into DICOM files."""

    source: str
    image: DecodedImage
    tensor: Tensor
    token_grid: TokenGrid
    frame: int | None
    identity: bool

    @classmethod
    def read(cls, opener: SampleOpener, source: SampleSource | DecodedImage, frame: int | None) -> ImageSample:
        """Read and prepare an image, or prepare a decoded one."""
        preprocessing = opener.preprocessing
        assert isinstance(preprocessing, ImagePreprocessing)
        path = "" if isinstance(source, DecodedImage) else file_of(source).path
        image = source if isinstance(source, DecodedImage) else read_image(path, frame=frame)
        token_grid = image_token_grid(preprocessing, image, opener.patch[0])
        return cls(path, image, torch.from_numpy(preprocessing(image)), token_grid, frame, opener.identity)

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """Render over the image, reduced if it is larger."""
        return render_image(self.image, tuple(map_.values for map_ in maps), self.token_grid, longest)

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: MapText) -> None:
        """Write a PNG, a pyramidal TIFF, or DICOM."""
        if form == "png":
            longest = max(self.image.pixels.shape[:2])
            draw(path, self.render(maps, longest if longest <= _LARGEST else THUMBNAIL), maps, words)
        elif form == "tiff":
            write_tiles(path, partial(unit_rows, self.image), maps[0].values, self.token_grid, maps[0].signed)
        else:
            self._write_dicom(path, maps[0], words)

    def _write_dicom(self, path: Path, map_: Map, words: MapText) -> None:
        height, width = self.image.pixels.shape[:2]
        if max(height, width) > _DICOM_SIDE or 3 * height * width > _DICOM_BYTES:
            raise ReadError(
                f"{width} x {height} pixels are more than DICOM can hold; use --format tiff",
                "too_large",
                path=self.source,
            )
        painted = paint(self.image.unit(), self.token_grid.spread(map_.values), max_magnitude(map_.values), map_.signed)
        write_secondary_capture(path, painted, self.source, name=words.name, description=words.caption,
                                frame=self.frame, spacing=self.image.spacing, identity=self.identity)  # fmt: skip


def image_token_grid(preprocessing: ImagePreprocessing, image: DecodedImage, patch: int) -> TokenGrid:
    """Invert an image's preprocessing, for patches of ``patch`` pixels."""
    shape = image.pixels.shape[:2]
    target = preprocessing.target(shape, image.growth)
    prepared = target if preprocessing.resize_mode == "native" else (preprocessing.size, preprocessing.size)
    scales = [resized / side for resized, side in zip(target, shape, strict=True)]
    before = [_before(resized, side) for resized, side in zip(target, prepared, strict=True)]
    start = tuple(-first / scale for scale, first in zip(scales, before, strict=True))
    visible = tuple(
        (max(0.0, low), min(float(side), low + length / scale))
        for low, side, length, scale in zip(start, shape, prepared, scales, strict=True)
    )
    return TokenGrid(start, tuple(patch / scale for scale in scales), visible, shape, image.spacing)


def _before(resized: int, prepared: int) -> int:
    """Prepared pixels before the image on an axis, as in center_crop; negative where it is cropped."""
    return (prepared - resized) // 2 if prepared >= resized else -round((resized - prepared) / 2)
