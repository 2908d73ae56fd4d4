"""Where the tokens of a map lie in what was read: images in their pixels, volumes in voxels, slides at level 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # they bring libraries of slides and volumes
    from softfree.data.modalities.image import ImagePreprocessing
    from softfree.data.modalities.slide import Region
    from softfree.data.modalities.volume import VolumePreprocessing
    from softfree.data.slide_readers.slide import Slide
    from softfree_runtime.readers.image import DecodedImage
    from softfree_runtime.readers.volume import Volume


@dataclass(frozen=True)
class Places:
    """A straight grid of tokens over the source; axes as the source's arrays have them (rows before columns).

    Coordinates are edges: pixel i reaches from i to i + 1.

    Attributes:
        start: where the first token begins, pixels of the source.
        step: side of a token, pixels of the source.
        seen: first and last edge that the model saw; padding and what was cropped lie beyond.
        shape: of the source, pixels.
        spacing: millimeters from pixel to pixel, or None where the file does not say.
        affine: of a volume, from voxel (d, h, w, 1) to millimeters RAS+.
    """

    start: tuple[float, ...]
    step: tuple[float, ...]
    seen: tuple[tuple[float, float], ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None

    def edges(self, axis: int, number: float) -> float:
        """Where the token of this number begins, no further out than what was seen."""
        low, high = self.seen[axis]
        return min(max(self.start[axis] + number * self.step[axis], low), high)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give each pixel of the source the value of the token over its center, NaN where the model saw nothing."""
        chosen, known = zip(*(self._tokens(axis, count) for axis, count in enumerate(values.shape)), strict=True)
        out = values[np.ix_(*chosen)].astype(np.float32)
        out[~reduce(np.logical_and.outer, known)] = np.nan
        return out

    def _tokens(self, axis: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The token over each pixel of an axis, and whether there is one."""
        centers = np.arange(self.shape[axis]) + 0.5
        tokens = np.floor((centers - self.start[axis]) / self.step[axis]).astype(int)
        low, high = self.seen[axis]
        known = (tokens >= 0) & (tokens < count) & (centers >= low) & (centers <= high)
        return tokens.clip(0, count - 1), known


def image_places(preprocessing: ImagePreprocessing, image: DecodedImage, patch: int) -> Places:
    """Invert an image's preprocessing, for patches of ``patch`` pixels."""
    shape = image.pixels.shape[:2]
    target = preprocessing.target(shape, image.growth)
    prepared = target if preprocessing.resize_mode == "native" else (preprocessing.size, preprocessing.size)
    scales = [resized / side for resized, side in zip(target, shape, strict=True)]
    before = [_before(resized, side) for resized, side in zip(target, prepared, strict=True)]
    start = tuple(-first / scale for scale, first in zip(scales, before, strict=True))
    seen = tuple(
        (max(0.0, low), min(float(side), low + length / scale))
        for low, side, length, scale in zip(start, shape, prepared, scales, strict=True)
    )
    return Places(start, tuple(patch / scale for scale in scales), seen, shape, image.spacing)


def _before(resized: int, prepared: int) -> int:
    """Prepared pixels before the image on an axis (below 0 where it is cropped), as center_crop places them."""
    return (prepared - resized) // 2 if prepared >= resized else -round((resized - prepared) / 2)


def volume_places(preprocessing: VolumePreprocessing, volume: Volume, patch: Sequence[int]) -> Places:
    """Undo a :class:`~softfree.data.modalities.volume.VolumePreprocessing` for patches of voxels; nothing is turned."""
    back = np.linalg.inv(volume.affine) @ np.asarray(preprocessing.affine(volume))
    scale = np.diag(back)[:3]  # source voxels for one prepared
    start = back[:3, 3] + 0.5 - scale / 2  # voxel i has its center at i + 1/2
    shape = volume.voxels.shape[1:]
    seen = tuple(
        (max(0.0, float(low)), min(float(side), float(low + length * one)))
        for low, side, length, one in zip(start, shape, preprocessing.shape, scale, strict=True)
    )
    step = tuple(float(side * one) for side, one in zip(patch, scale, strict=True))
    return Places(tuple(map(float, start)), step, seen, shape, volume.spacing, volume.affine)


def slide_places(slide: Slide, region: Region, mpp: float, patch: int) -> Places:
    """Place patches on level 0 of a slide.

    Args:
        slide: whose pixels are counted.
        region: what was read.
        mpp: micrometers per pixel of it.
        patch: side of a patch in pixels of it.
    """
    scale = (mpp / slide.mpp[1], mpp / slide.mpp[0])  # level 0 pixels for one that was read, rows and columns
    start = (region.top * 1000 / slide.mpp[1], region.left * 1000 / slide.mpp[0])
    shape = (slide.size[1], slide.size[0])
    seen = tuple(
        (max(0.0, low), min(float(side), low + length * one))
        for low, side, length, one in zip(start, shape, (region.height, region.width), scale, strict=True)
    )
    spacing = (slide.mpp[1] / 1000, slide.mpp[0] / 1000)
    return Places(start, tuple(patch * one for one in scale), seen, shape, spacing)
