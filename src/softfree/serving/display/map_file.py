"""A saliency map on disk, and its colors as a transparent layer over any part of its source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from softfree.saliency.geometry import TokenGrid

FOR, AGAINST = (255, 75, 62), (62, 139, 255)
"""Colors of evidence for and against, both visible on black and on white and told apart by color-blind people."""
_UNSEEN = (0, 0, 0, 150)  # parts that the model did not see are darkened


@dataclass(frozen=True)
class StoredMap:
    """A map of one image.

    Attributes:
        values: float32 on the grid of tokens, (h, w) or (d, h, w).
        grid: Positions of the tokens in the source.
        signed: Whether values below zero are evidence against.
        words: What the page says about it: ``method``, ``description``, ``subject`` (the class that it is about, None
            if it is the same for all), ``total`` (sum of its values) and ``whole`` (that over all images of a case).
    """

    values: np.ndarray
    grid: TokenGrid
    signed: bool
    words: Mapping[str, Any]

    @cached_property
    def limit(self) -> float:
        """The magnitude that gets the full color; 1 if all values are zero."""
        return float(np.abs(self.values).max()) or 1.0

    @property
    def unseen(self) -> bool:
        """Whether a pixel or more at an edge of the source was not in the model's input."""
        sides = zip(self.grid.visible, self.grid.shape, strict=True)
        return any(low >= 1 or high <= side - 1 for (low, high), side in sides)

    @classmethod
    def load(cls, path: Path) -> StoredMap:
        """Read the first map of a file of :func:`softfree.serving.explaining.write_maps`.

        Args:
            path: ``map_<i>.npz``; ``explained.json`` beside it says what the map means.
        """
        told = json.loads(path.with_name("explained.json").read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as file:
            grid = TokenGrid(
                tuple(file["start"].tolist()),
                tuple(file["step"].tolist()),
                tuple((low, high) for low, high in file["visible"].tolist()),
                tuple(file["shape"].tolist()),
                tuple(file["spacing"].tolist()) if "spacing" in file else None,
                file.get("affine"),
            )
            values = file["values_0"].astype(np.float32)
        first = told["maps"][0]
        words = {
            "method": first["method"],
            "description": first["description"],
            "subject": told["target"],
            "total": float(values.sum()),
            "whole": told["sum"],
        }
        return cls(values, grid, bool(first["signed"]), words)

    def slice(self, axis: int, number: int) -> StoredMap:
        """Return the map on one slice of a volume, (rows, columns) of the other two axes in their order."""
        token = int(np.floor((number + 0.5 - self.grid.start[axis]) / self.grid.step[axis]))
        others = [other for other in range(3) if other != axis]
        low, high = self.grid.visible[axis]
        inside = 0 <= token < self.values.shape[axis] and low <= number + 0.5 <= high
        values = np.take(self.values, token if inside else 0, axis=axis)
        visible = tuple(self.grid.visible[other] if inside else (0.0, 0.0) for other in others)
        grid = TokenGrid(
            tuple(self.grid.start[other] for other in others),
            tuple(self.grid.step[other] for other in others),
            visible,
            tuple(self.grid.shape[other] for other in others),
        )
        return StoredMap(values, grid, self.signed, self.words)

    def strongest_slice(self, axis: int) -> int:
        """Return the number of the source slice in the middle of the strongest layer of tokens."""
        others = tuple(other for other in range(3) if other != axis)
        layer = int(np.abs(self.values).sum(axis=others).argmax())
        middle = (self.grid.edges(axis, layer) + self.grid.edges(axis, layer + 1)) / 2
        return min(int(middle), self.grid.shape[axis] - 1)

    def layer(
        self, top: float, left: float, bottom: float, right: float, rows: int, columns: int, limit: float | None = None
    ) -> np.ndarray:
        """Color a rectangle of the source, each pixel by the token over its center, without smoothing.

        Args:
            top: First edge of the rectangle, in source pixels.
            left: The same for columns.
            bottom: Last edge.
            right: The same for columns.
            rows: Height of the result.
            columns: Width of the result.
            limit: The magnitude with the full color; default: that of the map.

        Returns:
            uint8 (rows, columns, 4): red for, blue against, the more opaque the larger the value.
        """
        down, seen_down = self._tokens(0, top + (np.arange(rows) + 0.5) * (bottom - top) / rows)
        across, seen_across = self._tokens(1, left + (np.arange(columns) + 0.5) * (right - left) / columns)
        out = colored(self.values[np.ix_(down, across)], limit or self.limit)
        out[~np.logical_and.outer(seen_down, seen_across)] = _UNSEEN
        return out

    def _tokens(self, axis: int, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the token over each position of an axis, and whether the model saw it."""
        count, (low, high) = self.values.shape[axis], self.grid.visible[axis]
        tokens = np.floor((centers - self.grid.start[axis]) / self.grid.step[axis]).astype(int)
        seen = (tokens >= 0) & (tokens < count) & (centers >= low) & (centers <= high)
        return tokens.clip(0, count - 1), seen


def colored(values: np.ndarray, limit: float) -> np.ndarray:
    """Color values of any shape: uint8 (..., 4), opaque where the magnitude is ``limit``."""
    fraction = np.clip(values / limit, -1, 1)
    out = np.empty((*values.shape, 4), np.uint8)
    out[..., :3] = np.where((fraction >= 0)[..., None], FOR, AGAINST)
    out[..., 3] = np.round(np.abs(fraction) * 255)
    return out
