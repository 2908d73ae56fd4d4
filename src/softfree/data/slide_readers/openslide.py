"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, tiled TIFF, DICOM and others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from openslide import (
    PROPERTY_NAME_MPP_X,
    PROPERTY_NAME_MPP_Y,
    PROPERTY_NAME_OBJECTIVE_POWER,
    PROPERTY_NAME_VENDOR,
    OpenSlide,
)
from PIL import Image

from softfree.data.slide_readers.pyramid import Pair, plausible

_POWER_TIMES_MPP = 2.5, 40.0  # scanners have 5 to 12: 10 um at a magnification of 1
_OTHER_POWER = "resolution and magnification contradict each other: the resolution is used"


class OpenSlidePyramid:
    """A :class:`~softfree.data.slide_readers.pyramid.Pyramid`."""

    def __init__(self, path: Path) -> None:
        self._slide = OpenSlide(str(path))
        properties = self._slide.properties
        self.mpp = plausible(properties.get(PROPERTY_NAME_MPP_X), properties.get(PROPERTY_NAME_MPP_Y))
        self.sizes: tuple[tuple[int, int], ...] = tuple(self._slide.level_dimensions)
        contradicts = self.mpp is not None and _contradicts(properties.get(PROPERTY_NAME_OBJECTIVE_POWER), self.mpp)
        # A DICOM file may contain a single level; the power is that of the finest one.
        self.corrections: tuple[str, ...] = (
            (_OTHER_POWER,) if contradicts and properties.get(PROPERTY_NAME_VENDOR) != "dicom" else ()
        )

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read uint8 (height, width, 3); see the protocol."""
        # OpenSlide expects whole pixels of level 0, which need not coincide with whole pixels of the level.
        downsample = self._slide.level_downsamples[level]
        start = round(x * downsample), round(y * downsample)
        pixels = self._slide.read_region(start, level, (width, height))  # RGBA
        white = Image.new("RGB", pixels.size, "white")
        white.paste(pixels, mask=pixels.getchannel("A"))
        return np.asarray(white), (start[0] / downsample - x, start[1] / downsample - y)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _contradicts(power: str | None, mpp: Pair) -> bool:
    try:
        product = float(power or "nan") * mpp[0]
    except ValueError:
        return False
    return product < _POWER_TIMES_MPP[0] or product > _POWER_TIMES_MPP[1]
