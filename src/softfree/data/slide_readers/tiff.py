"""Pyramidal TIFF that OpenSlide does not read, or reads only in part: OME-TIFF, strips, codecs of imagecodecs."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TIFF, TiffFile

from softfree.data.slide_readers.pyramid import Pair
from softfree.data.slide_readers.tiff_metadata import orientation
from softfree.data.slide_readers.tiff_series import first_page, images_of, the_slide
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.raster import refuse_damaged_webp
from softfree_runtime.readers.tiff_segments import jpeg_segment

_JPEG = (COMPRESSION.JPEG, COMPRESSION.ALT_JPEG)  # decoded to RGB, regardless of the photometric interpretation
_BYTES = (  # whose bytes have the photometric interpretation
    *(COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE),
    *(COMPRESSION.PACKBITS, COMPRESSION.ZSTD, COMPRESSION.LZMA),
)


class TiffPyramid:
    """A :class:`~softfree.data.slide_readers.pyramid.Pyramid`; tiles are decoded on demand."""

    def __init__(self, path: Path) -> None:
        with quiet():
            self._file = TiffFile(path)
            image, self.corrections = the_slide(path, images_of(path, self._file))
            self._pages: list[Any] = [first_page(level) for level in image.series.levels]
            _refuse(path, self._pages, image.series.axes, self._file)
        self.mpp = image.mpp
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
                    _paste(_rgb(page, tile), out, column * columns - x, row * rows - y)
        return out, (0.0, 0.0)

    def __del__(self) -> None:
        # tifffile's pages and their file refer to each other, which would keep it open until garbage is collected.
        if hasattr(self, "_file"):
            self._file.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _tile(self, page: Any, number: int) -> np.ndarray | None:
        """Decode a tile or strip to (h, w, C); None for an empty one."""
        with self._lock:
            self._file.filehandle.seek(page.dataoffsets[number])
            data = self._file.filehandle.read(page.databytecounts[number])
        if data and page.compression in _JPEG and page.samplesperpixel in (1, 3):
            return jpeg_segment(page, data, number)[0]
        if data and page.compression == COMPRESSION.WEBP:
            refuse_damaged_webp(data)
        with quiet():
            decoded = page.decode(data or None, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
        return None if decoded is None else decoded[0]


def _paste(tile: np.ndarray, out: np.ndarray, x: int, y: int) -> None:
    """Copy ``tile`` (h, w, 1 or 3) into ``out`` (H, W, 3), its corner at column ``x`` and row ``y``, maybe negative."""
    visible = tile[max(0, -y) : out.shape[0] - y, max(0, -x) : out.shape[1] - x]
    y, x = max(0, y), max(0, x)
    out[y : y + visible.shape[0], x : x + visible.shape[1]] = visible


def _rgb(page: Any, tile: np.ndarray) -> np.ndarray:
    """Convert a tile (h, w, C) to gray or RGB on white."""
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG:
        tile = np.asarray(Image.fromarray(tile, "YCbCr").convert("RGB"))
    if tile.shape[-1] != 4:
        return tile
    color, opaque = tile[..., :3].astype(np.uint16), tile[..., 3:].astype(np.uint16)
    if _alpha(page) == EXTRASAMPLE.UNASSALPHA:
        color = (color * opaque + 127) // 255
    return np.minimum(color + (255 - opaque), 255).astype(np.uint8)


def _alpha(page: Any) -> EXTRASAMPLE | None:
    """Return the meaning of a fourth channel, None without one; if not stated, as libtiff and OpenSlide assume."""
    if page.samplesperpixel != 4:
        return None
    return page.extrasamples[0] if page.extrasamples else EXTRASAMPLE.UNSPECIFIED


def _refuse(path: Path, pages: list[Any], axes: str, file: TiffFile) -> None:
    page = pages[0]
    colors = page.samplesperpixel in (1, 3, 4) and page.photometric.name in ("RGB", "YCBCR", "MINISBLACK")
    if page.dtype != np.uint8 or not colors or page.planarconfig != 1 or axes not in ("YX", "YXS"):
        raise ReadError(
            f"a TIFF with axes {axes} of {page.dtype}; expected a slide of 8 bits, gray or RGB, with"
            " interleaved channels; convert it",
            "unsupported",
            path=path,
        )
    if orientation(page) != 1:
        raise ReadError(
            f"a TIFF whose rows do not start in the upper left corner (orientation {orientation(page)});"
            " rotate it and save it again",
            "unsupported",
            path=path,
        )
    for level in pages:
        if level.parent is not file:
            raise ReadError("its pixels are in another file of a set; name that file", "unsupported", path=path)
        _refuse_codec(path, level)


def _refuse_codec(path: Path, page: Any) -> None:
    try:
        codec = COMPRESSION(page.compression)
        TIFF.DECOMPRESSORS[codec]
    except (KeyError, ValueError):
        raise ReadError(
            f"tiles of compression {int(page.compression)}, for which no decoder is installed; get it with:"
            " pip install imagecodecs, or convert the file",
            "unsupported",
            path=path,
        ) from None
    ycbcr = page.photometric == PHOTOMETRIC.YCBCR and codec not in (*_JPEG, *_BYTES)
    if ycbcr or codec == COMPRESSION.APERIO_JP2000_YCBC:
        raise ReadError(
            f"YCbCr pixels in {codec.name} are not supported in a TIFF; convert it", "unsupported", path=path
        )
