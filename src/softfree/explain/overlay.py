"""A picture beside the same picture under its map."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from softfree.files import replacing


def draw_overlay(path: Path, picture: np.ndarray, relevance: np.ndarray, *, title: str, caption: str = "") -> None:
    """Write a PNG: the picture, and the picture under its map with a colour bar centred at zero.

    Args:
        path: of the PNG.
        picture: (H, W) or (H, W, 3), values in [0, 1].
        relevance: (h, w), a number a patch; drawn as they are, not smoothed into more detail than there is.
        title: above both.
        caption: below both.
    """
    height, width = picture.shape[:2]
    limit = float(np.abs(relevance).max()) or 1.0
    extent = (0, width, height, 0)
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(10, 0.7 + 4.5 * height / width), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
            axes.set_axis_off()
        strength = np.abs(relevance) / limit
        drawn = right.imshow(
            relevance, cmap="bwr", vmin=-limit, vmax=limit, alpha=0.6 * strength, extent=extent, interpolation="nearest"
        )
        drawn.set_clim(-limit, limit)
        colours = mpl.cm.ScalarMappable(norm=mpl.colors.Normalize(-limit, limit), cmap="bwr")
        bar = figure.colorbar(colours, ax=right, fraction=0.04)
        bar.set_ticks([-limit, 0, limit], labels=["against", "0", "for"])
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        if caption:
            figure.supxlabel(caption, fontsize=9, color="0.35")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)
