"""Checks of a TIFF before OpenSlide reads it: whether it is complete, and what OpenSlide would read wrongly."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, TiffFile

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.quiet import quiet

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
PLAIN = ("generic-tiff", "aperio")  # OpenSlide's names of formats with tiles side by side and no special rules
LARGEST_TILE = 1 << 26  # pixels; OpenSlide ends the process if it cannot allocate one
_ORIENTATION = 274  # a tag
_IMAGE_TAGS = (256, 257, 273, 324)  # an image has some of: width, height, offsets of its strips or tiles
_HEADER = 8  # bytes
_PAGES = 1000  # maximum number of pages examined; a slide has about ten


@dataclass(frozen=True)
class TiffFacts:
    """Facts about a TIFF.

    Attributes:
        is_ome: Whether it is an OME-TIFF.
        size: (width, height) of the largest page.
        plain: Whether its pixels have 8 bits and its rows start in the upper left corner; OpenSlide reads everything
            else wrongly, without an error.
        whole_jpeg: Whether all its tiles are JPEG, and none is empty.
        corrections: Its contradictions, in words.
    """

    is_ome: bool
    size: tuple[int, int]
    plain: bool
    whole_jpeg: bool
    corrections: tuple[str, ...]


def read_facts(path: Path, vendor: str | None) -> TiffFacts | None:
    """Read the directories of a TIFF; None for one that tifffile does not read.

    Raises:
        ReadError: It is cut short, or its directories place tiles where they cannot be.
    """
    with quiet():
        try:
            file = TiffFile(path)
        except Exception:  # tifffile raises almost any exception on damaged headers
            return None
        with file:
            pages = _pages(path, file)
            for page in pages:
                if vendor in (None, *PLAIN):
                    _refuse_page(path, page)
                if vendor != "hamamatsu":  # which encodes offsets beyond 4 GB in its own way
                    _refuse_beyond(path, page, file.filehandle.size)
            largest = max(pages, key=lambda page: page.imagewidth * page.imagelength)
            return TiffFacts(
                bool(file.is_ome),
                (largest.imagewidth, largest.imagelength),
                largest.dtype == np.uint8 and orientation(largest) == 1,
                all(_is_whole_jpeg(page) for page in pages if page.is_tiled),
                _corrections(largest),
            )


def orientation(page: Any) -> int:
    """Return the TIFF orientation: 1 means that rows and columns start in the upper left corner."""
    return int(page.tags.valueof(_ORIENTATION, 1))


def _is_whole_jpeg(page: Any) -> bool:
    return page.compression == COMPRESSION.JPEG and all(page.databytecounts)


def _corrections(page: Any) -> tuple[str, ...]:
    words: tuple[str, ...] = ()
    if len(page.extrasamples) == 1 and page.extrasamples[0] == EXTRASAMPLE.UNSPECIFIED:
        words += ("a fourth channel without a stated meaning is taken as alpha",)
    if len(page.dataoffsets) > math.prod(page.chunked):
        words += ("more tiles than the size of the image needs",)
    return words


def _pages(path: Path, file: TiffFile) -> list[Any]:
    """Return all pages with an image, including subpages; ReadError if the chain of directories is broken."""
    directories: list[Any] = []
    try:
        for number in range(min(len(file.pages), _PAGES)):
            page = file.pages.get(number, aspage=True)
            directories += [page, *(sub.aspage() for sub in page.pages or ())]
        whole = _is_chain_whole(file, {page.offset for page in directories})
    except Exception:  # a directory beyond the end of the file
        whole = False
    images = [page for page in directories if any(tag in page.tags for tag in _IMAGE_TAGS)]
    if not whole or not images:
        raise _cut_short(path)
    return images


def _is_chain_whole(file: TiffFile, known: set[int]) -> bool:
    """Return whether the last directory is marked as such; some programs link it back to an earlier one."""
    offset, handle = file.pages.next_page_offset, file.filehandle
    if offset is None or len(file.pages) > _PAGES:
        return True
    handle.seek(offset)
    (following,) = struct.unpack(file.tiff.offsetformat, handle.read(file.tiff.offsetsize))
    return following == 0 or following in known


def _refuse_page(path: Path, page: Any) -> None:
    """Refuse a page without a size, or with fewer or smaller tiles than it needs.

    Empty tiles are legitimate: scanners skip the glass.
    """
    for kind, sides in (
        ("an image", (page.imagewidth, page.imagelength)),
        ("tiles", (page.tilewidth, page.tilelength)),
    ):
        if not all(isinstance(side, int) for side in sides) or (kind == "an image" and min(sides) < 1):
            raise ReadError(f"damaged TIFF: {kind} without a width or a height", path=path)
    if page.tilewidth * page.tilelength > LARGEST_TILE:
        raise ReadError(f"damaged TIFF: tiles of {page.tilewidth} x {page.tilelength} pixels", path=path)
    count = math.prod(page.chunked)
    starts, lengths = (np.asarray(tag[:count], dtype=np.float64) for tag in (page.dataoffsets, page.databytecounts))
    if len(starts) < count or len(lengths) < count:
        raise _cut_short(path)
    if lengths[starts < _HEADER].any():
        raise ReadError("damaged TIFF: tiles inside its header", path=path)
    if page.compression == COMPRESSION.NONE and 0 < lengths[lengths > 0].min(initial=math.inf) < _least_bytes(page):
        raise ReadError("damaged TIFF: tiles shorter than their pixels", path=path)
    if not lengths.any():
        raise ReadError("damaged TIFF: an image without any stored tile", path=path)


def _refuse_beyond(path: Path, page: Any, size: int) -> None:
    """Refuse a page with tiles beyond the end of the file."""
    ends = (start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False))
    if max(ends, default=0) > size:
        raise _cut_short(path)


def _least_bytes(page: Any) -> int:
    """Return the size in bytes of the smallest tile or strip of an uncompressed page."""
    rows, columns = page.tilelength, page.tilewidth
    if not page.is_tiled:
        rows, columns = (page.imagelength - 1) % max(1, page.rowsperstrip) + 1, page.imagewidth
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return rows * (-(-columns * samples * page.bitspersample // 8))


def _cut_short(path: Path) -> ReadError:
    return ReadError("a TIFF that is cut short: parts of it are missing; copy it again", path=path)
