"""A regular grid of tiles over a slide, in millimeters."""

from __future__ import annotations

import numpy as np

from softfree.data.modalities.tissue import Tissue


def tile_centers(
    size_mm: tuple[float, float],
    side: int,
    mpp: float,
    *,
    step: int | None = None,
    tissue: Tissue | None = None,
    share: float = 0.25,
) -> np.ndarray:
    """Lay tiles over a slide, row by row from its upper left corner; the last ones may reach beyond its edges.

    Args:
        size_mm: Width and height of the slide.
        side: Side of a tile in pixels.
        mpp: Micrometers per pixel of the tiles.
        step: Pixels from one tile to the next; default: ``side``, without overlap or gap.
        tissue: Where tissue is; None keeps all tiles.
        share: Minimum fraction of a tile that must be tissue; a tile without any is never kept.

    Returns:
        Centers (N, 2) as x and y in millimeters, float64; N may be 0.
    """
    side_mm, step_mm = side * mpp / 1000, (step or side) * mpp / 1000
    # A rounding error must not add a column of white.
    starts = [np.arange(max(1, np.ceil(size / step_mm - 1e-6))) * step_mm for size in size_mm]
    top, left = (edge.ravel() for edge in np.meshgrid(starts[1], starts[0], indexing="ij"))
    if tissue is not None:
        shares = tissue.share(left, top, side_mm)
        kept = (shares >= share - 1e-9) & (shares > 1e-9)
        left, top = left[kept], top[kept]
    return np.stack([left, top], axis=1) + side_mm / 2
