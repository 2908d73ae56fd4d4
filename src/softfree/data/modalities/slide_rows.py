"""Slides of any size, read band by band."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from softfree.data.modalities.slide import COLORS, Region, SlidePreprocessing, normalize, write_variables
from softfree.data.slide_readers.slide import Slide
from softfree_runtime.core.errors import ReadError
from softfree_runtime.sources.sample_source import SampleSource

_HELD = 64 * 2**20  # bytes of pixels to read at once: whole tiles are decoded, so thin bands are slow


class SlideRows:
    """Rows of a slide, or of a region of it, at one resolution; see :class:`softfree.streaming.Rows`.

    It can be pickled: the other process reopens the file.

    Args:
        slide: An open slide.
        mpp: Micrometers per pixel of the rows.
        prepare: Pixelwise function from uint8 rows (3, n, W) to the model's input.
        region: Default: the whole slide.
        variables: Clinical variables (V,), for one more channel; none for the colors alone.
    """

    def __init__(
        self,
        slide: Slide,
        mpp: float,
        prepare: Callable[[Tensor], Tensor],
        region: Region | None = None,
        variables: np.ndarray | None = None,
    ) -> None:
        self.slide, self.mpp, self.prepare = slide, mpp, prepare
        if region is None:
            width, height = (max(1, round(side * 1000 / mpp)) for side in slide.size_mm)
            region = Region(0.0, 0.0, width, height)
        self.region = region
        self.variables = np.empty(0, np.float32) if variables is None else variables
        self.shape = (COLORS + bool(len(self.variables)), region.height, region.width)
        self._first, self._held = 0, np.empty((0, region.width, 3), np.uint8)

    def read(self, top: int, bottom: int) -> Tensor:
        """Return the prepared rows from ``top`` up to ``bottom``.

        Raises:
            ReadError: Pixels cannot be decoded.
        """
        if top < self._first or bottom > self._first + len(self._held):
            end = min(max(bottom, top + _HELD // (3 * self.region.width)), self.region.height)
            self._first, self._held = top, self._pixels(top, end)
        rows = self._held[top - self._first : bottom - self._first]
        colors = self.prepare(torch.from_numpy(rows).permute(2, 0, 1))
        if not len(self.variables):
            return colors
        plane = np.empty((bottom - top, self.region.width), np.float32)
        write_variables(self.variables, plane, top)
        return torch.cat([colors, torch.from_numpy(plane)[None]])

    def with_variables(self, variables: np.ndarray) -> SlideRows:
        """Return the same rows with other clinical variables (V,)."""
        return SlideRows(self.slide, self.mpp, self.prepare, self.region, variables)

    def __enter__(self) -> SlideRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.slide.close()

    def _pixels(self, top: int, bottom: int) -> np.ndarray:
        from_top = self.region.top + top * self.mpp / 1000
        return self.slide.read(self.region.left, from_top, self.region.width, bottom - top, self.mpp)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return SlideRows, (self.slide, self.mpp, self.prepare, self.region, self.variables)


def open_rows(preprocessing: SlidePreprocessing, source: SampleSource, frame: int | None = None) -> SlideRows:
    """Open a slide of any size; its rows are those of ``preprocessing.load``, up to rounding of positions.

    Raises:
        ReadError: As for ``preprocessing.load``, except ``too_large``.
    """
    slide = preprocessing.open(source, frame)
    try:
        variables = preprocessing.encoded_variables(source)
        return SlideRows(slide, preprocessing.mpp, _prepared, preprocessing.region(slide), variables)
    except ReadError:
        slide.close()
        raise


def load_or_open(
    preprocessing: SlidePreprocessing, source: SampleSource, frame: int | None = None
) -> Tensor | SlideRows:
    """Read a slide, or open one that is too large to be read at once.

    Raises:
        ReadError: Not a slide, or no tissue.
    """
    try:
        return torch.from_numpy(preprocessing.load(source, frame))
    except ReadError as error:
        if error.status != "too_large":
            raise
        return open_rows(preprocessing, source, frame)


def _prepared(pixels: Tensor) -> Tensor:
    return torch.from_numpy(normalize(pixels.permute(1, 2, 0).numpy()))
