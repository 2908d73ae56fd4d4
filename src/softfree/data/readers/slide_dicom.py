"""DICOM slides through wsidicom, for the transfer syntaxes and arrangements that OpenSlide does not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread
from wsidicom import WsiDicom

from softfree.data.readers.quiet import quiet
from softfree.data.readers.slide_pyramid import Pair, plausible


class DicomPyramid:
    """A :class:`~softfree.data.readers.slide_pyramid.Pyramid` of the series that a file belongs to, or of a folder."""

    def __init__(self, path: Path) -> None:
        with quiet():
            self._slide = WsiDicom.open(path if path.is_dir() else _series(path))
            levels = list(self._slide.levels)
            self._levels = [level.level for level in levels]
            self.sizes = tuple((level.size.width, level.size.height) for level in levels)
            self.mpp = plausible(levels[0].mpp.width, levels[0].mpp.height)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read uint8 (height, width, 3); see the protocol."""
        with quiet():
            pixels = self._slide.read_region((x, y), self._levels[level], (width, height))
        return np.asarray(pixels.convert("RGB")), (0.0, 0.0)

    def __del__(self) -> None:
        if hasattr(self, "_slide"):
            self._slide.close()

    def close(self) -> None:
        """Give the files back."""
        self._slide.close()


def _series(path: Path) -> list[Path]:
    """Find the files beside ``path`` that are of the same series: the other levels of the slide."""
    wanted = _series_of(path)
    return [
        path,
        *(other for other in sorted(path.parent.glob("*.dcm")) if other != path and _series_of(other) == wanted),
    ]


def _series_of(path: Path) -> str:
    try:
        return str(dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)
    except Exception:  # pydicom raises nearly anything on what is not DICOM
        return str(path)
