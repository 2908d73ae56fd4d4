"""Positions of tokens in the source: pixels of an image, voxels of a volume, level 0 of a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # they import the libraries of slides and volumes
    from softfree.data.modalities.image import ImagePreprocessing
    from softfree.data.modalities.slide import Region
    from softfree.data.modalities.volume import VolumePreprocessing
    from softfree.data.slide_readers.slide import Slide
    from softfree_runtime.readers.image import DecodedImage
    from softfree_runtime.readers.volume import Volume


@dataclass(frozen=True)
class TokenGrid:
    """An axis-aligned grid of tokens over the source; axes in array order (rows before columns).

    Coordinates are edges: pixel i extends from i to i + 1.

    Attributes:
        start: First edge of the first token, in source pixels.
        step: Side of a token, in source pixels.
        visible: First and last edge of the model's input; padding and cropped parts are outside.
        shape: Shape of the source, in pixels.
        spacing: Millimeters per pixel, or None if the file does not state it.
        affine: Of a volume, from voxel (d, h, w, 1) to millimeters RAS+.
    """

    start: tuple[float, ...]
    step: tuple[float, ...]
    visible: tuple[tuple[float, float], ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None

    def edges(self, axis: int, number: float) -> float:
        """First edge of the token with this number, clipped to the visible part."""
        low, high = self.visible[axis]
        return min(max(self.start[axis] + number * self.step[axis], low), high)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give each source pixel the value of the token over its center; NaN outside the visible part."""
        tokens, covered = zip(*(self._tokens(axis, count) for axis, count in enumerate(values.shape)), strict=True)
        out = values[np.ix_(*tokens)].astype(np.float32)
        out[~reduce(np.logical_and.outer, covered)] = np.nan
        return out

    def _tokens(self, axis: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Number of the token over each pixel of an axis, and whether there is one."""
        centers = np.arange(self.shape[axis]) + 0.5
        tokens = np.floor((centers - self.start[axis]) / self.step[axis]).astype(int)
        low, high = self.visible[axis]
        covered = (tokens >= 0) & (tokens < count) & (centers >= low) & (centers <= high)
        return tokens.clip(0, count - 1), covered


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


def volume_token_grid(preprocessing: VolumePreprocessing, volume: Volume, patch: Sequence[int]) -> TokenGrid:
    """Token grid of a volume on its own voxels, for patches of prepared voxels; preprocessing never rotates."""
    back = np.linalg.inv(volume.affine) @ np.asarray(preprocessing.affine(volume))
    scale = np.diag(back)[:3]  # source voxels per prepared voxel
    start = back[:3, 3] + 0.5 - scale / 2  # voxel i has its center at i + 1/2
    shape = volume.voxels.shape[1:]
    visible = tuple(
        (max(0.0, float(low)), min(float(side), float(low + length * factor)))
        for low, side, length, factor in zip(start, shape, preprocessing.shape, scale, strict=True)
    )
    step = tuple(float(side * factor) for side, factor in zip(patch, scale, strict=True))
    return TokenGrid(tuple(map(float, start)), step, visible, shape, volume.spacing, volume.affine)


def slide_token_grid(slide: Slide, region: Region, mpp: float, patch: int) -> TokenGrid:
    """Token grid of a slide on level 0.

    Args:
        slide: The slide.
        region: The part of it that was read.
        mpp: Micrometers per pixel as it was read.
        patch: Side of a patch in these pixels.
    """
    scale = (mpp / slide.mpp[1], mpp / slide.mpp[0])  # level 0 pixels per pixel that was read, rows and columns
    start = (region.top * 1000 / slide.mpp[1], region.left * 1000 / slide.mpp[0])
    shape = (slide.size[1], slide.size[0])
    visible = tuple(
        (max(0.0, low), min(float(side), low + length * factor))
        for low, side, length, factor in zip(start, shape, (region.height, region.width), scale, strict=True)
    )
    spacing = (slide.mpp[1] / 1000, slide.mpp[0] / 1000)
    return TokenGrid(start, tuple(patch * factor for factor in scale), visible, shape, spacing)
