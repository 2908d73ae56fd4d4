"""What is to be known of a TIFF before OpenSlide reads it: whether it is whole, and what OpenSlide would get wrong."""

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
PLAIN = ("generic-tiff", "aperio")  # OpenSlide's names of what has its tiles side by side, with no rules of its own
LARGEST_TILE = 1 << 26  # pixels; OpenSlide ends the process where memory for one is lacking
_ORIENTATION = 274  # a tag
_OF_IMAGES = (256, 257, 273, 324)  # tags of which an image has some: width, height, offsets of its strips or tiles
_LEAST = 8  # bytes of a TIFF's header
_PAGES = 1000  # that are looked at; a slide has some ten


@dataclass(frozen=True)
class TiffFacts:
    """Facts.

    Attributes:
        is_ome: Whether it is an OME-TIFF.
        size: (width, height) of the largest page.
        plain: Whether its pixels are of 8 bits, row by row from the upper left corner: all else OpenSlide reads
            without a word, and wrongly.
        whole_jpeg: Whether all its tiles are JPEG, and none is left out.
        corrections: What in it contradicts itself, in words.
    """

    is_ome: bool
    size: tuple[int, int]
    plain: bool
    whole_jpeg: bool
    corrections: tuple[str, ...]


def read_facts(path: Path, vendor: str | None) -> TiffFacts | None:
    """Read the directories of a TIFF; None for what tifffile does not read.

    Raises:
        ReadError: It is cut short, or has tiles that cannot be where its directories say.
    """
    with quiet():
        try:
            file = TiffFile(path)
        except Exception:  # tifffile raises nearly anything on damaged headers
            return None
        with file:
            pages = _pages(path, file)
            for page in pages:
                if vendor in (None, *PLAIN):
                    _refuse_page(path, page)
                if vendor != "hamamatsu":  # whose offsets beyond 4 GB are a code of its own
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
    """Return where rows and columns begin: 1 is the upper left corner."""
    return int(page.tags.valueof(_ORIENTATION, 1))


def _is_whole_jpeg(page: Any) -> bool:
    return page.compression == COMPRESSION.JPEG and all(page.databytecounts)


def _corrections(page: Any) -> tuple[str, ...]:
    words: tuple[str, ...] = ()
    if len(page.extrasamples) == 1 and page.extrasamples[0] == EXTRASAMPLE.UNSPECIFIED:
        words += ("a fourth channel of no stated meaning is taken as alpha",)
    if len(page.dataoffsets) > math.prod(page.chunked):
        words += ("more tiles than the size of the image needs",)
    return words


def _pages(path: Path, file: TiffFile) -> list[Any]:
    """Return all pages with an image, those below others too; ReadError when the chain of directories breaks off."""
    found: list[Any] = []
    try:
        for number in range(min(len(file.pages), _PAGES)):
            page = file.pages.get(number, aspage=True)
            found += [page, *(sub.aspage() for sub in page.pages or ())]
        whole = _is_chain_whole(file, {page.offset for page in found})
    except Exception:  # a directory that lies beyond the end of the file
        whole = False
    images = [page for page in found if any(tag in page.tags for tag in _OF_IMAGES)]
    if not whole or not images:
        raise _cut_short(path)
    return images


def _is_chain_whole(file: TiffFile, known: set[int]) -> bool:
    """Whether the last directory says that it is the last; programs exist that close the chain to a circle."""
    place, handle = file.pages.next_page_offset, file.filehandle
    if place is None or len(file.pages) > _PAGES:
        return True
    handle.seek(place)
    (following,) = struct.unpack(file.tiff.offsetformat, handle.read(file.tiff.offsetsize))
    return following == 0 or following in known


def _refuse_page(path: Path, page: Any) -> None:
    """Refuse a page of no size, or with fewer or smaller tiles than it needs.

    Tiles without a byte are legitimate: scanners leave out the glass.
    """
    for kind, sides in (
        ("an image", (page.imagewidth, page.imagelength)),
        ("tiles", (page.tilewidth, page.tilelength)),
    ):
        if not all(isinstance(side, int) for side in sides) or (kind == "an image" and min(sides) < 1):
            raise ReadError(f"{path}: damaged TIFF: {kind} without a width or a height")
    if page.tilewidth * page.tilelength > LARGEST_TILE:
        raise ReadError(f"{path}: damaged TIFF: tiles of {page.tilewidth} x {page.tilelength} pixels")
    count = math.prod(page.chunked)
    starts, lengths = (np.asarray(one[:count], dtype=np.float64) for one in (page.dataoffsets, page.databytecounts))
    if len(starts) < count or len(lengths) < count:
        raise _cut_short(path)
    if lengths[starts < _LEAST].any():
        raise ReadError(f"{path}: damaged TIFF: tiles that would lie in its header")
    if page.compression == COMPRESSION.NONE and 0 < lengths[lengths > 0].min(initial=math.inf) < _least_bytes(page):
        raise ReadError(f"{path}: damaged TIFF: tiles that are shorter than their pixels")
    if not lengths.any():
        raise ReadError(f"{path}: damaged TIFF: an image of which no tile is stored")


def _refuse_beyond(path: Path, page: Any, size: int) -> None:
    """Refuse a page with tiles beyond the end of the file."""
    ends = (start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False))
    if max(ends, default=0) > size:
        raise _cut_short(path)


def _least_bytes(page: Any) -> int:
    """Return how many bytes the smallest tile or strip of an uncompressed page has."""
    rows, columns = page.tilelength, page.tilewidth
    if not page.is_tiled:
        rows, columns = (page.imagelength - 1) % max(1, page.rowsperstrip) + 1, page.imagewidth
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return rows * (-(-columns * samples * page.bitspersample // 8))


def _cut_short(path: Path) -> ReadError:
    return ReadError(f"{path}: a TIFF that is cut short: parts of it lie beyond its end; fetch it again")
