"""Pyramidal TIFF that OpenSlide does not read, or only in part: OME-TIFF, strips, codecs of imagecodecs."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from tifffile import RESUNIT, TiffFile, xml2dict

from softfree.data.readers.quiet import quiet
from softfree.data.readers.slide_pyramid import Pair, plausible
from softfree.errors import ReadError

_MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3}


class TiffPyramid:
    """A :class:`~softfree.data.readers.slide_pyramid.Pyramid`; a tile is decoded when it is asked for."""

    def __init__(self, path: Path) -> None:
        with quiet():
            self._file = TiffFile(path)
            series = self._file.series[0]
            self._pages: list[Any] = [_first(level) for level in series.levels]
            _refuse(path, self._pages, series.axes)
            self.mpp = _ome_mpp(self._file) if self._file.is_ome else _tag_mpp(self._pages[0])
        self.sizes = tuple((page.imagewidth, page.imagelength) for page in self._pages)
        self._lock = Lock()

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read uint8 (height, width, 3); see the protocol."""
        page = self._pages[level]
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        out = np.full((height, width, 3), 255, np.uint8)
        for row in range(y // rows, -(-(y + height) // rows)):
            for column in range(x // columns, -(-(x + width) // columns)):
                tile = self._tile(page, row * -(-page.imagewidth // columns) + column)
                if tile is not None:
                    _paste(tile, out, column * columns - x, row * rows - y)
        return out, (0.0, 0.0)

    def __del__(self) -> None:
        # tifffile's pages refer to their file in a circle, which would keep it open until some later collection.
        if hasattr(self, "_file"):
            self._file.close()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _tile(self, page: Any, number: int) -> np.ndarray | None:
        """Decode a tile or strip to (h, w, C); None for one that was left empty."""
        with self._lock:
            self._file.filehandle.seek(page.dataoffsets[number])
            coded = self._file.filehandle.read(page.databytecounts[number])
        with quiet():
            decoded = page.decode(coded or None, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
        return None if decoded is None else decoded[0]


def _paste(tile: np.ndarray, out: np.ndarray, x: int, y: int) -> None:
    """Put ``tile`` (h, w, C) into ``out`` (H, W, 3), its corner at column ``x`` and row ``y``, maybe negative."""
    part = tile[max(0, -y) : out.shape[0] - y, max(0, -x) : out.shape[1] - x]
    y, x = max(0, y), max(0, x)
    target = out[y : y + part.shape[0], x : x + part.shape[1]]
    if part.shape[-1] == 4:
        opaque = part[..., 3:].astype(np.uint16)
        part = ((part[..., :3] * opaque + 255 * (255 - opaque) + 127) // 255).astype(np.uint8)
    target[:] = part


def _first(level: Any) -> Any:
    return level.pages[0].aspage()


def _refuse(path: Path, pages: list[Any], axes: str) -> None:
    page = pages[0]
    colours = page.samplesperpixel in (1, 3, 4) and page.photometric.name in ("RGB", "YCBCR", "MINISBLACK")
    if page.dtype != np.uint8 or not colours or page.planarconfig != 1 or axes not in ("YX", "YXS"):
        raise ReadError(
            f"{path}: a TIFF with axes {axes} of {page.dtype}; slides are read with 8 bits, gray or RGB,"
            " the channels of a pixel together; convert it",
            "unsupported",
        )


def _tag_mpp(page: Any) -> Pair | None:
    if page.resolutionunit not in (RESUNIT.CENTIMETER, RESUNIT.INCH):
        return None
    per_um = page.get_resolution(RESUNIT.MICROMETER)
    return plausible(1 / per_um[0], 1 / per_um[1]) if all(per_um) else None


def _ome_mpp(file: TiffFile) -> Pair | None:
    image = xml2dict(file.ome_metadata or "<OME/>").get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    sizes = []
    for axis in "XY":
        unit = _MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        given = pixels.get(f"PhysicalSize{axis}")
        sizes.append(None if given is None or unit is None else float(given) * unit)
    return plausible(*sizes)
