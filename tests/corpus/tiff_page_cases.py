"""TIFF of several images, where nobody names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tests.corpus.case import Made, case

from softfree_runtime.readers.tiff import LARGER, PYRAMID, REDUCED

FULL = np.random.default_rng(0).integers(0, 256, (160, 240, 3), np.uint8)
HALF, QUARTER = FULL[::2, ::2], FULL[::4, ::4]
COPY: dict[str, Any] = {"subfiletype": 1}
TILES: dict[str, Any] = {"tile": (64, 64)}
Image = tuple[np.ndarray, dict[str, Any]]


def tiff(folder: Path, *images: Image) -> Path:
    with tifffile.TiffWriter(folder / "a.tif") as file:
        for pixels, options in images:
            file.write(pixels, photometric="rgb", metadata=None, **options)
    return folder / "a.tif"


def several(property: str, right: np.ndarray, says: str, *images: Image, **arguments: Any) -> None:
    """Register a TIFF of these images."""

    @case("TIFF", property, "image", "corrected" if says else "read", says=says)
    def write(folder: Path) -> Made:
        return Made(tiff(folder, *images), {"pixels": right}, 0, arguments)


PAGE: Image = (FULL, {})
several("a thumbnail after the image", FULL, "", PAGE, (QUARTER, COPY))
several("a thumbnail before the image", FULL, REDUCED, (QUARTER, COPY), PAGE)
several("two thumbnails before the image", FULL, REDUCED, (QUARTER, COPY), (HALF, COPY), PAGE)
several("a thumbnail with the image in its SubIFD, as in DNG", FULL, REDUCED, (QUARTER, COPY | {"subifds": 1}), PAGE)
several("an empty thumbnail", QUARTER, "", (QUARTER, COPY))
several("a requested thumbnail", QUARTER, "", (QUARTER, COPY), PAGE, frame=0)
several("equal images", FULL, "", PAGE, (FULL[::-1], {}), (FULL, {}))
several("a smaller image and a larger one", HALF, LARGER, (HALF, {}), PAGE)
several("a larger image and a smaller one", FULL, "", PAGE, (HALF, {}))
LEVELS: tuple[Image, Image] = ((HALF, TILES | COPY), (QUARTER, TILES | COPY))
several("a pyramid of pages", FULL, PYRAMID, (FULL, TILES), *LEVELS)
several("a pyramid in SubIFDs of its first page", FULL, PYRAMID, (FULL, TILES | {"subifds": 2}), *LEVELS)
several("a pyramid whose levels are not marked", FULL, PYRAMID, (FULL, TILES), (HALF, TILES))


def broken(folder: Path) -> Path:
    """An intact image before a damaged one."""
    path = tiff(folder, (FULL, {"subifds": 1}), (HALF, COPY))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["SubIFDs"].overwrite(path.stat().st_size + 99)
    return path


@case("TIFF", "an intact image with a damaged SubIFD", "image", "read")
def damaged(folder: Path, make: Callable[[Path], Path] = broken) -> Made:
    return Made(make(folder), {"pixels": FULL})
