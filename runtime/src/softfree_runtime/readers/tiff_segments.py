"""Strips and tiles of a TIFF page, by decoders that report damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from softfree_runtime.readers.raster import refuse_damaged_webp
from softfree_runtime.readers.strict_jpeg import UNCHECKED, Space, decode_jpeg

FILLED = "strips or tiles without data filled"
OLD_JPEG = "old-style JPEG decoded by libtiff, not checked for damage"

_OLD_JPEG, _WEBP = 6, 50001
_JPEG = (_OLD_JPEG, 7, 33007, 34892)
_WITHOUT_END = (2, 3, 4, 32771, 22610, 34934)  # CCITT and JPEG XR, whose decoders do not notice where data end
_SPACES: dict[int, Space] = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_ONE_BY_ONE = 0  # bytes to read at once; tifffile miscounts after an empty segment
_AS_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # a marker that means: not YCbCr


def decoded(page: tifffile.TiffPage) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode a page as :meth:`tifffile.TiffPage.asarray` does, and return what was corrected.

    Raises:
        ValueError, or what a decoder raises: Damaged.
    """
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    empty = [0 in segment for segment in segments]
    if all(empty):
        raise ValueError("no strip or tile has data")
    corrections = (FILLED,) if any(empty) and not page.is_contiguous else ()
    size = page.parent.filehandle.size
    if page.compression in _WITHOUT_END and any(offset + count > size for offset, count in segments):
        raise ValueError("the file ends within a strip or tile")
    buffersize = _ONE_BY_ONE if any(empty) else None
    if page.compression == _WEBP:
        for data, _ in _segments(page, buffersize):
            refuse_damaged_webp(data or b"")
    if page.compression in _JPEG and page.bitspersample == 8 and page.shaped[-1] in _SPACES:
        pixels, more = _jpeg(page, buffersize)
        return pixels, corrections + more
    return page.asarray(buffersize=buffersize), corrections


def _segments(page: tifffile.TiffPage, buffersize: int | None) -> Iterator[tuple[bytes | None, int]]:
    """Yield the coded bytes of each strip or tile, None if missing, and its number."""
    file: Any = page.parent.filehandle
    yield from file.read_segments(page.dataoffsets, page.databytecounts, buffersize=buffersize)


def by_libtiff(path: Path, page: tifffile.TiffPage) -> np.ndarray:
    """Decode an 8-bit page to RGB ``(H, W, 3)`` as stored, ignoring its orientation."""
    import imagecodecs  # 80 MB that the torch-free runtime does not need

    data = bytearray(path.read_bytes())
    if tag := page.tags.get("Orientation"):  # libtiff would rotate some
        data[tag.valueoffset : tag.valueoffset + 2] = (1).to_bytes(
            2, "little" if page.parent.byteorder == "<" else "big"
        )
    return np.ascontiguousarray(imagecodecs.tiff_decode(bytes(data), index=page.index, asrgb=True)[..., :3])


def is_old_jpeg(page: tifffile.TiffPage) -> bool:
    """Return whether the parts of a JPEG are stored separately, as in TIFF 6.0; otherwise each strip is a JPEG."""
    if page.compression != _OLD_JPEG:
        return False
    file = page.parent.filehandle
    file.seek(page.dataoffsets[0])
    return file.read(2) != b"\xff\xd8" or "JPEGInterchangeFormat" in page.tags


def jpeg_segment(page: tifffile.TiffPage, data: bytes, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode the JPEG of a strip or tile to uint8 ``(h, w, C)``; return it with what was corrected.

    Raises:
        ValueError: It is damaged, or smaller than its strip or tile.
    """
    head = (page.jpegtables or b"\xff\xd8\xff\xd9")[:-2]
    if page.photometric == tifffile.PHOTOMETRIC.RGB and not page.is_jfif and page.shaped[-1] == 3:
        head += _AS_RGB
    # Without data, tifffile returns only the position.
    _, (_, _, top, left, _), (_, rows, columns, _) = page.decode(None, index)
    rows, columns = min(rows, page.imagelength - top), min(columns, page.imagewidth - left)
    corrections: tuple[str, ...]
    try:
        pixels, corrections = decode_jpeg(head + data[2:], _SPACES[page.shaped[-1]])
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        decoded_segment, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
        pixels, corrections = np.asarray(decoded_segment)[0], (UNCHECKED,)
    if pixels.shape[0] < rows or pixels.shape[1] < columns:
        raise ValueError(
            f"JPEG of {pixels.shape[1]} x {pixels.shape[0]} pixels in a strip or tile of {columns} x {rows}"
        )
    return pixels[:rows, :columns], corrections


def _jpeg(page: tifffile.TiffPage, buffersize: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
    out = np.full(page.shaped, page.nodata, np.uint8)  # separate samples, depth, rows, columns, samples
    corrections: set[str] = set()
    for data, index in _segments(page, buffersize):
        if data is None:
            continue
        pixels, more = jpeg_segment(page, data, index)
        _, (sample, _, top, left, _), _ = page.decode(None, index)
        out[sample, 0, top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        corrections |= set(more)
    return out.reshape(page.shape), tuple(sorted(corrections))
