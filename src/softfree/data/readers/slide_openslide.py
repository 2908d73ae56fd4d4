"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, tiled TIFF, DICOM and others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from openslide import PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y, OpenSlide
from PIL import Image

from softfree.data.readers.slide_pyramid import Pair, plausible


class OpenSlidePyramid:
    """A :class:`~softfree.data.readers.slide_pyramid.Pyramid`."""

    def __init__(self, path: Path) -> None:
        self._slide = OpenSlide(str(path))
        found = self._slide.properties
        self.mpp = plausible(found.get(PROPERTY_NAME_MPP_X), found.get(PROPERTY_NAME_MPP_Y))
        self.sizes: tuple[tuple[int, int], ...] = tuple(self._slide.level_dimensions)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read uint8 (height, width, 3); see the protocol."""
        # OpenSlide takes whole pixels of level 0, which do not fall on whole pixels of every level.
        downsample = self._slide.level_downsamples[level]
        start = round(x * downsample), round(y * downsample)
        pixels = self._slide.read_region(start, level, (width, height))  # RGBA
        white = Image.new("RGB", pixels.size, "white")
        white.paste(pixels, mask=pixels.getchannel("A"))
        return np.asarray(white), (start[0] / downsample - x, start[1] / downsample - y)

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()
