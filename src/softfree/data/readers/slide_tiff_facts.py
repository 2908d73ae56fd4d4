"""What is to be known of a TIFF before OpenSlide reads it: whether it is whole, and what OpenSlide would get wrong."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import EXTRASAMPLE, TiffFile

from softfree.data.readers.quiet import quiet
from softfree.errors import ReadError

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
UNSAID_ALPHA = "a fourth channel of no stated meaning is taken as alpha"
_WIDTH, _ORIENTATION = 256, 274  # tags
_LEAST = 8  # bytes of a TIFF's header
_PAGES = 1000  # that are looked at; a slide has some ten


@dataclass(frozen=True)
class TiffFacts:
    """Facts.

    Attributes:
        is_ome: whether it is an OME-TIFF.
        size: (width, height) of the largest page.
        plain: whether its pixels are of 8 bits, row by row from the upper left corner: all else OpenSlide reads
            without a word, and wrongly.
        unsaid_alpha: whether a fourth channel has no stated meaning.
    """

    is_ome: bool
    size: tuple[int, int]
    plain: bool
    unsaid_alpha: bool


def read_facts(path: Path, vendor: str | None) -> TiffFacts | None:
    """Read the directories of a TIFF; None for what tifffile does not read.

    Raises:
        ReadError: it is cut short, or has tiles that cannot be where its directories say.
    """
    with quiet():
        try:
            file = TiffFile(path)
        except Exception:  # tifffile raises nearly anything on damaged headers
            return None
        with file:
            pages = _pages(path, file)
            if vendor != "hamamatsu":  # whose offsets beyond 4 GB are a code of its own
                for page in pages:
                    _refuse_page(path, page, file.filehandle.size)
            largest = max(pages, key=lambda page: page.imagewidth * page.imagelength)
            return TiffFacts(
                bool(file.is_ome),
                (largest.imagewidth, largest.imagelength),
                largest.dtype == np.uint8 and orientation(largest) == 1,
                len(largest.extrasamples) == 1 and largest.extrasamples[0] == EXTRASAMPLE.UNSPECIFIED,
            )


def orientation(page: Any) -> int:
    """Return where rows and columns begin: 1 is the upper left corner."""
    return int(page.tags.valueof(_ORIENTATION, 1))


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
    images = [page for page in found if _WIDTH in page.tags]
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


def _refuse_page(path: Path, page: Any, size: int) -> None:
    """Refuse a page of no size, with fewer tiles than it needs, or with tiles beyond the end of the file.

    Tiles without a byte are legitimate: scanners leave out the glass.
    """
    if 0 in (page.imagewidth, page.imagelength):
        raise ReadError(f"{path}: damaged TIFF: an image of {page.imagewidth} x {page.imagelength} pixels")
    count = math.prod(page.chunked)
    starts, lengths = (np.asarray(one[:count], dtype=np.float64) for one in (page.dataoffsets, page.databytecounts))
    if len(starts) < count or len(lengths) < count or (starts + lengths).max() > size:
        raise _cut_short(path)
    if lengths[starts < _LEAST].any():
        raise ReadError(f"{path}: damaged TIFF: tiles that would lie in its header")
    if not lengths.any():
        raise ReadError(f"{path}: damaged TIFF: an image of which no tile is stored")


def _cut_short(path: Path) -> ReadError:
    return ReadError(f"{path}: a TIFF that is cut short: parts of it lie beyond its end; fetch it again")
