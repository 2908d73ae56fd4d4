"""DICOM slides through wsidicom, for transfer syntaxes and layouts that OpenSlide does not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import VLWholeSlideMicroscopyImageStorage
from wsidicom import WsiDicom

from softfree.data.slide_readers.pyramid import Pair, plausible
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.quiet import quiet


class DicomPyramid:
    """A :class:`~softfree.data.slide_readers.pyramid.Pyramid` of the series to which a file belongs, or of a folder."""

    def __init__(self, path: Path) -> None:
        with quiet():
            self._slide = WsiDicom.open(_only_series(path) if path.is_dir() else _series(path))
            levels = list(self._slide.levels)
            self._levels = [level.level for level in levels]
            self.sizes = tuple((level.size.width, level.size.height) for level in levels)
            self.mpp = plausible(levels[0].mpp.width, levels[0].mpp.height)
        self.corrections: tuple[str, ...] = ()

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read uint8 (height, width, 3); see the protocol."""
        with quiet():
            pixels = self._slide.read_region((x, y), self._levels[level], (width, height))
        return np.asarray(pixels.convert("RGB")), (0.0, 0.0)

    def __del__(self) -> None:
        if hasattr(self, "_slide"):
            self._slide.close()

    def close(self) -> None:
        """Close the files."""
        self._slide.close()


def _series(path: Path) -> list[Path]:
    """Find the files next to ``path`` of the same series: the other levels of the slide."""
    series = _series_of(path)
    others = () if series is None else sorted(file for file in path.parent.iterdir() if file.is_file())
    return [path, *(other for other in others if other != path and _series_of(other) == series)]


def _only_series(folder: Path) -> list[Path]:
    """Find the files of the slide in a folder; ReadError if there are several slides."""
    files = {path: _series_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    levels = [path for path, series in files.items() if series is not None]
    if (count := len(set(files.values()) - {None})) > 1:
        raise ReadError(
            f"{count} DICOM slides in one folder; name a file of one of them, or give each its own folder",
            "unsupported",
            path=folder,
        )
    return levels or [*files]


def _series_of(path: Path) -> str | None:
    """Return the series of a slide's file; None for any other file."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPClassUID"])
        return str(dataset.SeriesInstanceUID) if dataset.SOPClassUID == VLWholeSlideMicroscopyImageStorage else None
    except Exception:  # pydicom raises almost any exception on other files
        return None
