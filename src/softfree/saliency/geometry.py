"""Positions of tokens in the source: in its pixels or voxels, on level 0 of a slide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np


@dataclass(frozen=True)
class TokenGrid:
    """An axis-aligned grid of tokens over the source; axes in array order (rows before columns).

    Coordinates are edges: pixel i extends from i to i + 1.

    Attributes:
        start: First edge of the first token, in source pixels.
        step: Side of a token, in source pixels.
        visible: First and last edge of the model's input; padding and cropped parts are outside.
        shape: Shape of the source, in pixels.
        spacing: Millimeters per pixel, or None if the file does not state it.
        affine: In three dimensions, from voxel (d, h, w, 1) to millimeters RAS+.
    """

    start: tuple[float, ...]
    step: tuple[float, ...]
    visible: tuple[tuple[float, float], ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None

    def edges(self, axis: int, number: float) -> float:
        """First edge of the token with this number, clipped to the visible part."""
        low, high = self.visible[axis]
        return min(max(self.start[axis] + number * self.step[axis], low), high)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give each source pixel the value of the token over its center; NaN outside the visible part."""
        tokens, covered = zip(*(self.tokens(axis, count) for axis, count in enumerate(values.shape)), strict=True)
        out = values[np.ix_(*tokens)].astype(np.float32)
        out[~reduce(np.logical_and.outer, covered)] = np.nan
        return out

    def tokens(self, axis: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Number of the token, of ``count``, over each pixel of an axis, and whether there is one."""
        centers = np.arange(self.shape[axis]) + 0.5
        tokens = np.floor((centers - self.start[axis]) / self.step[axis]).astype(int)
        low, high = self.visible[axis]
        covered = (tokens >= 0) & (tokens < count) & (centers >= low) & (centers <= high)
        return tokens.clip(0, count - 1), covered


def scaled(token_grid: TokenGrid, scale: tuple[float, float], shape: tuple[int, ...]) -> TokenGrid:
    """Token grid on a resized source, by its scale down and across and its new shape."""
    return replace(
        token_grid,
        start=tuple(edge * factor for edge, factor in zip(token_grid.start, scale, strict=True)),
        step=tuple(side * factor for side, factor in zip(token_grid.step, scale, strict=True)),
        visible=tuple(
            (low * factor, high * factor) for (low, high), factor in zip(token_grid.visible, scale, strict=True)
        ),
        shape=shape,
        spacing=token_grid.spacing
        and tuple(step / factor for step, factor in zip(token_grid.spacing, scale, strict=True)),
    )


def band(token_grid: TokenGrid, top: int, bottom: int) -> TokenGrid:
    """Token grid on some rows of the source."""
    low, high = token_grid.visible[0]
    return replace(
        token_grid,
        start=(token_grid.start[0] - top, *token_grid.start[1:]),
        visible=((low - top, high - top), *token_grid.visible[1:]),
        shape=(bottom - top, *token_grid.shape[1:]),
    )
