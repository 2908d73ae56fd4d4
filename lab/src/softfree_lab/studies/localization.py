"""Whether a map points at a finding whose place is known.

- Pointing game: whether the highest token lies on the finding (Zhang et al. 2016, arXiv:1608.00507).
- Area under the localization curve: the ROC area of the values for telling tokens on the finding from the others; it
  looks at the whole map, and is 0.5 for one that knows nothing.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from sklearn.metrics import roc_auc_score

from softfree.saliency.geometry import TokenGrid


def on_finding(token_grid: TokenGrid, grid: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    """Return which tokens touch a round finding: their centers lie within its radius and half a token of its center.

    Args:
        token_grid: Where the tokens lie in the source.
        grid: Rows and columns of tokens.
        x, y: Center of the finding, pixels of the source from the left and from the top.
        radius: Of the finding, pixels of the source.

    Returns:
        Boolean (h, w).
    """
    down, across = (_centers(token_grid, axis, count) for axis, count in enumerate(grid))
    distance = np.hypot(*np.meshgrid(down - y, across - x, indexing="ij"))
    return distance <= radius + max(token_grid.step) / 2


def seen_tokens(token_grid: TokenGrid, grid: tuple[int, int]) -> np.ndarray:
    """Return which tokens lie over the source rather than over its padding, boolean (h, w)."""
    inside = []
    for axis, count in enumerate(grid):
        low, high = token_grid.visible[axis]
        centers = _centers(token_grid, axis, count)
        inside.append((centers >= low) & (centers <= high))
    return reduce(np.logical_and.outer, inside)


def pointing_game(values: np.ndarray, finding: np.ndarray, seen: np.ndarray | None = None) -> float:
    """Return whether the highest token is on the finding, 1 or 0; of several equally high ones the share that is.

    Args:
        values: (h, w), a map.
        finding: Boolean (h, w), from :func:`on_finding`.
        seen: Boolean (h, w), tokens that count; default: all.
    """
    seen = np.ones_like(finding) if seen is None else seen
    highest = (values == values[seen].max()) & seen
    return float(finding[highest].mean())


def localization_area(values: np.ndarray, finding: np.ndarray, seen: np.ndarray | None = None) -> float:
    """Compute the ROC area of a map's values against the finding's tokens; NaN where these are none or all.

    Args as :func:`pointing_game` has them.
    """
    seen = np.ones_like(finding) if seen is None else seen
    truth = finding[seen]
    return float(roc_auc_score(truth, values[seen])) if 0 < truth.sum() < truth.size else float("nan")


def _centers(token_grid: TokenGrid, axis: int, count: int) -> np.ndarray:
    return token_grid.start[axis] + (np.arange(count) + 0.5) * token_grid.step[axis]
