"""Maps of slides as files: regions as GeoJSON, and the slide with its map as a pyramidal TIFF."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from softfree.data.slide_readers.slide import Slide
from softfree.saliency.geometry import TokenGrid, scaled
from softfree.saliency.pyramid_tiff import write_tiles
from softfree.saliency.regions import Region
from softfree_runtime.core.files import write_atomically

_RED = [214, 39, 40]
Corner = tuple[int, int]


def write_geojson(path: Path, regions: Sequence[Region], token_grid: TokenGrid, name: str) -> None:
    """Write regions as annotations in pixels of level 0, x before y, as QuPath reads them.

    Args:
        path: The file.
        regions: Regions of a map (h, w).
        token_grid: Positions of its tokens.
        name: The class that they support.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": _in_pixels(region, token_grid)},
            "properties": {
                "objectType": "annotation",
                "name": f"{name} {number}",
                "classification": {"name": name, "color": _RED},
                "measurements": {"sum": region.total, "peak": region.peak, "tokens": int(region.tokens.sum())},
            },
        }
        for number, region in enumerate(regions, start=1)
    ]
    write_atomically(path, json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False))


def _in_pixels(region: Region, token_grid: TokenGrid) -> list[list[list[float]]]:
    top, left = region.corner
    rings = outline(region.tokens)
    return [
        [[token_grid.edges(1, left + column), token_grid.edges(0, top + row)] for row, column in ring] for ring in rings
    ]


def outline(tokens: np.ndarray) -> list[list[Corner]]:
    """Trace the outline of tokens (h, w) connected by their sides.

    Returns:
        Closed rings of corners (row, column): the outer one first, then those of holes, in the opposite direction.
    """
    edges = _edges(tokens)
    rings = []
    while edges:
        ring = [min(edges)]  # the upper left corner of the outer ring
        direction = (0, 0)
        while len(ring) == 1 or ring[-1] != ring[0]:
            ring.append(_next(edges, ring[-1], direction))
            direction = _step(ring[-2], ring[-1])
        rings.append(_corners(ring))
    return rings


def _next(edges: dict[Corner, list[Corner]], here: Corner, direction: Corner) -> Corner:
    """Remove and follow an edge from a corner; where two tokens touch diagonally, turn right to stay at the first."""
    end = min(edges[here], key=lambda end: _turn(direction, _step(here, end)))
    edges[here].remove(end)
    if not edges[here]:
        del edges[here]
    return end


def _step(first: Corner, last: Corner) -> Corner:
    return last[0] - first[0], last[1] - first[1]


def _edges(tokens: np.ndarray) -> dict[Corner, list[Corner]]:
    """Return the sides of tokens without a neighbor, from corner to corner, with the token on the right."""
    padded = np.pad(tokens, 1)
    edges: dict[Corner, list[Corner]] = {}
    # Offset of the neighbor, and the corners of the token between which the side runs, clockwise.
    sides = {(-1, 0): ((0, 0), (0, 1)), (0, 1): ((0, 1), (1, 1)), (1, 0): ((1, 1), (1, 0)), (0, -1): ((1, 0), (0, 0))}
    for (down, across), (first, last) in sides.items():
        beyond = padded[1 + down : padded.shape[0] - 1 + down, 1 + across : padded.shape[1] - 1 + across]
        for row, column in zip(*map(np.ndarray.tolist, np.nonzero(tokens & ~beyond)), strict=True):
            edges.setdefault((row + first[0], column + first[1]), []).append((row + last[0], column + last[1]))
    return edges


def _turn(before: Corner, after: Corner) -> int:
    """-1 for a turn to the right (rows count downwards), 1 to the left, 0 straight on."""
    return -(before[1] * after[0] - before[0] * after[1])


def _corners(ring: list[Corner]) -> list[Corner]:
    """Drop the points at which a closed ring goes straight on."""
    before_each = [ring[-2], *ring]
    kept = [
        here for before, here, after in zip(before_each, ring[:-1], ring[1:], strict=False)
        if _step(before, here) != _step(here, after)
    ]  # fmt: skip
    return [*kept, kept[0]]


def render_slide(slide: Slide, token_grid: TokenGrid, longest: int) -> tuple[np.ndarray, TokenGrid]:
    """Read the whole slide with at most ``longest`` pixels a side, uint8 (H, W, 3), and the token grid on it."""
    mpp = _coarser(slide, longest)
    pixels = slide.thumbnail(mpp)
    return pixels, _moved(slide, token_grid, mpp, pixels.shape[:2])


def write_pyramid(
    path: Path, slide: Slide, values: np.ndarray, token_grid: TokenGrid, signed: bool, *, longest: int = 8192
) -> None:
    """Write the slide with its map as a tiled TIFF with coarser levels, with the resolution and origin of the slide.

    Args:
        path: The TIFF file.
        slide: The slide.
        values: (h, w) on the token grid.
        token_grid: Positions of the tokens on level 0.
        signed: Whether zero is the middle of the colors.
        longest: Pixels of the longer side, to which a finer slide is reduced.
    """
    mpp = _coarser(slide, longest)
    width, height = (max(1, math.ceil(side * 1000 / mpp - 1e-6)) for side in slide.size_mm)

    def read(top: int, bottom: int) -> np.ndarray:
        return slide.read(0, top * mpp / 1000, width, bottom - top, mpp) / np.float32(255)

    output_grid = _moved(slide, token_grid, mpp, (height, width))
    write_tiles(path, read, values, output_grid, signed, compression="jpeg")  # as scanners write their slides


def _coarser(slide: Slide, longest: int) -> float:
    return max(*slide.mpp, *(side * 1000 / longest for side in slide.size_mm))


def _moved(slide: Slide, token_grid: TokenGrid, mpp: float, shape: tuple[int, ...]) -> TokenGrid:
    return replace(
        scaled(token_grid, (slide.mpp[1] / mpp, slide.mpp[0] / mpp), shape), spacing=(mpp / 1000, mpp / 1000)
    )
