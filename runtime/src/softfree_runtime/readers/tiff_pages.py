"""Which image of a TIFF is read where nobody names one."""

from __future__ import annotations

from contextlib import suppress

import tifffile

REDUCED = "the first image is a reduced copy of another, which is taken"
PYRAMID = "an image in several resolutions, as slides have, read at the finest"
LARGER = "several images, the first of which is not the largest, read as the first"

_PAGES = 16  # that are looked at


def whole_image(file: tifffile.TiffFile) -> tuple[tifffile.TiffPage, int | None, tuple[str, ...]]:
    """Choose the first image, or what that is a reduced copy of.

    Returns:
        The image; its number among the pages, None where it lies below the first page; and what was assumed.
    """
    first = file.pages.first
    others = _others(file, first)
    if first.is_reduced and (whole := [one for one in others if not one.is_reduced]):
        largest = max(whole, key=_pixels)
        return largest, largest.index if len(largest.treeindex) == 1 else None, (REDUCED,)
    if first.is_tiled and any(one.is_tiled and _is_copy(one, first) for one in others):
        return first, 0, (PYRAMID,)
    if any(_pixels(one) > _pixels(first) and not one.is_reduced for one in others):
        return first, 0, (LARGER,)
    return first, 0, ()


def _others(file: tifffile.TiffFile, first: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    """Return the images beside the first, none for a stack of equal ones; those that are damaged are passed over."""
    found: list[tifffile.TiffPage] = []
    with suppress(Exception):
        if first.subifds:
            found += [page.aspage() for page in (first.pages or ())[:_PAGES]]
    with suppress(Exception):
        for page in file.pages[1:_PAGES]:
            one = page.aspage()
            if not found and not first.is_reduced and one.shape == first.shape:
                break
            found.append(one)
    return found


def _is_copy(one: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Whether it is smaller, in the same proportions."""
    if not 0 < _pixels(one) < _pixels(first):
        return False
    across, down = first.imagewidth / one.imagewidth, first.imagelength / one.imagelength
    return max(across, down) <= 1.1 * min(across, down)


def _pixels(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth) * int(page.imagelength)
