"""Regions of a map with the strongest evidence for the class: connected tokens above a quantile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import ndimage

from softfree.saliency.geometry import TokenGrid


@dataclass(frozen=True)
class Region:
    """Tokens connected by their sides, all above the quantile and above zero.

    Attributes:
        tokens: Boolean mask within their bounding box on the map: a map of millions of tokens has thousands of regions.
        corner: First corner of that box on the map.
        low, high: First and last edge along each axis, in pixels of the source.
        total: Sum of the values.
        peak: Largest value.
    """

    tokens: np.ndarray
    corner: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    total: float
    peak: float

    def to_dict(self, token_grid: TokenGrid) -> dict[str, object]:
        """Return center and size for JSON, x before y before z, in pixels and, if the spacing is known, in millimeters.

        Pixels are counted from the first corner of the source, on level 0 of a slide. In three dimensions they are
        voxels, counted to the right, the front and the head, and millimeters are RAS+ as in the file; otherwise these
        are measured from the first corner.
        """
        center = [(low + high) / 2 for low, high in zip(self.low, self.high, strict=True)]
        size = [high - low for low, high in zip(self.low, self.high, strict=True)]
        row: dict[str, object] = {
            "center_px": _rounded(center[::-1]),
            "size_px": _rounded(size[::-1]),
            "tokens": int(self.tokens.sum()),
            "sum": self.total,
            "peak": self.peak,
        }
        if token_grid.spacing is None:
            return row
        in_mm = [value * step for value, step in zip(center, token_grid.spacing, strict=True)][::-1]
        if token_grid.affine is not None:
            in_mm = list((token_grid.affine @ [*(value - 0.5 for value in center), 1.0])[:3])
        sizes = [value * step for value, step in zip(size, token_grid.spacing, strict=True)]
        return row | {"center_mm": _rounded(in_mm), "size_mm": _rounded(sizes[::-1])}


def find_regions(values: np.ndarray, token_grid: TokenGrid, quantile: float = 0.9, most: int = 1000) -> list[Region]:
    """Find the regions of a map, the one with the largest sum first.

    Args:
        values: Values on the token grid.
        token_grid: Positions of the tokens.
        quantile: Quantile of the values within the model's input, from 0 to below 1; tokens must exceed it, and zero.
        most: Maximum number of regions, those with the largest sums.
    """
    inside = reduce(
        np.logical_and.outer, (_visible(token_grid, axis, count) for axis, count in enumerate(values.shape))
    )
    level = max(0.0, float(np.quantile(values[inside], quantile))) if inside.any() else 0.0
    labels, count = ndimage.label((values > level) & inside)
    boxes, totals = ndimage.find_objects(labels), ndimage.sum_labels(values, labels, np.arange(1, count + 1))
    numbers = np.argsort(-totals, kind="stable")[:most]
    return [
        _region(values[boxes[number]], labels[boxes[number]] == number + 1, boxes[number], token_grid)
        for number in numbers
    ]


def _region(values: np.ndarray, tokens: np.ndarray, box: tuple[slice, ...], token_grid: TokenGrid) -> Region:
    low = tuple(token_grid.edges(axis, side.start) for axis, side in enumerate(box))
    high = tuple(token_grid.edges(axis, side.stop) for axis, side in enumerate(box))
    corner = tuple(side.start for side in box)
    return Region(tokens, corner, low, high, float(values[tokens].sum()), float(values[tokens].max()))


def _visible(token_grid: TokenGrid, axis: int, count: int) -> np.ndarray:
    """Return which tokens of an axis overlap the visible part of the source, (count,)."""
    return np.diff([token_grid.edges(axis, number) for number in range(count + 1)]) > 0


def _rounded(values: list[float]) -> list[float]:
    return [round(float(value), 3) for value in values]
