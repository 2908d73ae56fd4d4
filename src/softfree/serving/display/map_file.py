"""A saliency map on disk, and its colors as a transparent layer over any part of its source."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softfree.saliency.geometry import TokenGrid
from softfree_runtime.core.files import replacing

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
        words: What the page says about it: ``method``, ``description``, ``caption``, ``target``, ``total``.
    """

    values: np.ndarray
    grid: TokenGrid
    signed: bool
    words: Mapping[str, Any]

    @property
    def limit(self) -> float:
        """The magnitude that gets the full color; 1 if all values are zero."""
        return float(np.abs(self.values).max()) or 1.0

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        grid = self.grid
        buffer = io.BytesIO()
        facts = {"signed": self.signed, "words": dict(self.words), "spacing": grid.spacing, "shape": grid.shape}
        np.savez_compressed(
            buffer,
            values=self.values.astype(np.float32),
            start=np.array(grid.start, dtype=np.float64),
            step=np.array(grid.step, dtype=np.float64),
            visible=np.array(grid.visible, dtype=np.float64),
            affine=np.zeros((0, 0)) if grid.affine is None else np.asarray(grid.affine, dtype=np.float64),
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        )
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> StoredMap:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            affine = file["affine"]
            grid = TokenGrid(
                tuple(file["start"].tolist()),
                tuple(file["step"].tolist()),
                tuple((low, high) for low, high in file["visible"].tolist()),
                tuple(facts["shape"]),
                facts["spacing"] and tuple(facts["spacing"]),
                affine if affine.size else None,
            )
            return cls(file["values"], grid, bool(facts["signed"]), facts["words"])

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
        colors = colored(self.values, limit or self.limit)
        out = colors[np.ix_(down, across)]
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
