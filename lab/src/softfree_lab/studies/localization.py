"""Tests whether a map locates a finding whose position is known.

- Pointing game: whether the highest token lies on the finding (Zhang et al. 2016, arXiv:1608.00507).
- Area under the localization curve: the ROC area of the values for distinguishing tokens on the finding from the
  others; it covers the whole map, and is 0.5 by chance.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from sklearn.metrics import roc_auc_score

from softfree.saliency.geometry import TokenGrid


def on_finding(token_grid: TokenGrid, grid: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    """Return which tokens touch a round finding: those within its radius plus half a token of its center.

    Args:
        token_grid: Positions of the tokens in the source.
        grid: Rows and columns of tokens.
        x, y: Center of the finding in pixels of the source, from the left and from the top.
        radius: Radius of the finding in pixels of the source.

    Returns:
        Boolean (h, w).
    """
    down, across = (_centers(token_grid, axis, count) for axis, count in enumerate(grid))
    distance = np.hypot(*np.meshgrid(down - y, across - x, indexing="ij"))
    return distance <= radius + max(token_grid.step) / 2


def visible_tokens(token_grid: TokenGrid, grid: tuple[int, int]) -> np.ndarray:
    """Return which tokens lie on the source rather than on its padding, boolean (h, w)."""
    inside = []
    for axis, count in enumerate(grid):
        low, high = token_grid.visible[axis]
        centers = _centers(token_grid, axis, count)
        inside.append((centers >= low) & (centers <= high))
    return reduce(np.logical_and.outer, inside)


def pointing_game(values: np.ndarray, finding: np.ndarray, visible: np.ndarray | None = None) -> float:
    """Return 1 if the highest token is on the finding, else 0; of several equally high tokens, the share on it.

    Args:
        values: A map, (h, w).
        finding: Boolean (h, w), from :func:`on_finding`.
        visible: Boolean (h, w), tokens to consider; default: all.
    """
    visible = np.ones_like(finding) if visible is None else visible
    highest = (values == values[visible].max()) & visible
    return float(finding[highest].mean())


def localization_area(values: np.ndarray, finding: np.ndarray, visible: np.ndarray | None = None) -> float:
    """Compute the ROC area of a map's values against the finding's tokens; NaN if these are none or all.

    Arguments are those of :func:`pointing_game`.
    """
    visible = np.ones_like(finding) if visible is None else visible
    truth = finding[visible]
    return float(roc_auc_score(truth, values[visible])) if 0 < truth.sum() < truth.size else float("nan")


def _centers(token_grid: TokenGrid, axis: int, count: int) -> np.ndarray:
    return token_grid.start[axis] + (np.arange(count) + 0.5) * token_grid.step[axis]
