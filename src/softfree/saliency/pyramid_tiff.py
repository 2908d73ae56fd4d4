"""An image of any size with its map as a pyramidal TIFF, written tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tifffile import TiffWriter

from softfree.saliency.geometry import TokenGrid, band
from softfree.saliency.overlay import max_magnitude, paint
from softfree_runtime.core.files import replacing

_TILE = 256  # an even number: tiles are halved one by one
_QUALITY = 85  # of JPEG, from 1 to 100
Compression = Literal["deflate", "jpeg"]


def write_tiles(
    path: Path,
    read: Callable[[int, int], np.ndarray],
    values: np.ndarray,
    token_grid: TokenGrid,
    signed: bool,
    *,
    compression: Compression = "deflate",
) -> None:
    """Write an image with its map as a tiled TIFF with coarser levels, and its resolution if known.

    One row of tiles at a time is read, painted and written; memory holds that row and the coarser levels, three bytes
    per four pixels of the image.

    Args:
        path: The TIFF file.
        read: Returns a range of rows of the image, (n, W, 1 or 3) with values in [0, 1].
        values: (h, w) on the token grid.
        token_grid: Positions of the tokens on the image.
        signed: Whether zero is the middle of the colors.
        compression: Compression of the tiles; "jpeg" is lossy and a tenth of the size.
    """
    form = _form(compression)
    height, width = token_grid.shape
    half = np.empty((-(-height // 2), -(-width // 2), 3), np.uint8)
    with replacing(path) as temporary, TiffWriter(temporary, bigtiff=height * width * 4 > 2**31) as file:
        file.write(
            _tiles(read, values, token_grid, signed, half),
            shape=(height, width, 3),
            dtype=np.uint8,
            subfiletype=0,
            **form,
            **_resolution(token_grid, 1.0),
        )
        for level in _levels(half) if max(height, width) > 2 * _TILE else ():
            file.write(level, subfiletype=1, **form, **_resolution(token_grid, level.shape[1] / width))


def _form(compression: Compression) -> dict[str, Any]:
    form: dict[str, Any] = {"tile": (_TILE, _TILE), "photometric": "rgb", "compression": compression, "metadata": None}
    return form | ({"compressionargs": {"level": _QUALITY}} if compression == "jpeg" else {})


def _resolution(token_grid: TokenGrid, scale: float) -> dict[str, Any]:
    if token_grid.spacing is None:
        return {}
    per_cm = tuple(10 / step * scale for step in reversed(token_grid.spacing))
    return {"resolution": per_cm, "resolutionunit": "CENTIMETER"}


def _tiles(
    read: Callable[[int, int], np.ndarray], values: np.ndarray, token_grid: TokenGrid, signed: bool, half: np.ndarray
) -> Iterator[np.ndarray]:
    """Paint one row of tiles after another, and store each at half its size in ``half``."""
    height, width = token_grid.shape
    limit = max_magnitude(values)
    for top in range(0, height, _TILE):
        bottom = min(top + _TILE, height)
        painted = paint(read(top, bottom), band(token_grid, top, bottom).spread(values), limit, signed)
        half[top // 2 : -(-bottom // 2)] = _halved(painted)
        whole = np.pad(painted, ((0, top + _TILE - bottom), (0, -width % _TILE), (0, 0)), mode="edge")
        yield from (whole[:, left : left + _TILE] for left in range(0, width, _TILE))


def _levels(pixels: np.ndarray) -> Iterator[np.ndarray]:
    yield pixels
    while max(pixels.shape[:2]) > 2 * _TILE:
        pixels = _halved(pixels)
        yield pixels


def _halved(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).reduce(2))
