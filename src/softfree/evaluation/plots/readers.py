"""Numbers of readers in two conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softfree.evaluation.plots.style import MUTED, RULE, SERIES, figure, short, styled


class Pair(NamedTuple):
    """A line of the plot: value, low and high end of the interval in each condition; NaN for what is missing."""

    name: str
    first: tuple[float, float, float]
    second: tuple[float, float, float]


@styled
def pairs(rows: Sequence[Pair], label: str, conditions: tuple[str, str], reference: float | None = None) -> Figure:
    """Draw two numbers with their intervals in each row, with names above them.

    Args:
        rows: From top to bottom.
        label: Axis label.
        conditions: Their names, for the legend.
        reference: Value of a reference line.
    """
    drawing = figure(1.0 + 0.56 * max(len(rows), 1))
    axes = drawing.subplots()
    if reference is not None and not math.isnan(reference):
        axes.axvline(reference, color=RULE, linewidth=1, zorder=0)
    looks = ((MUTED, "o", -0.02), (SERIES[0], "s", 0.22))
    for line, row in enumerate(rows):
        axes.text(0, line - 0.34, short(row.name, 44), transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        for (value, low, high), (color, marker, below) in zip((row.first, row.second), looks, strict=True):
            axes.hlines(line + below, low, high, color=color, linewidth=1.6)
            axes.plot(value, line + below, marker=marker, markersize=5, color=color, linestyle="")
    for name, (color, marker, _) in zip(conditions, looks, strict=True):
        axes.plot([], [], marker=marker, markersize=5, color=color, label=name)
    axes.set(ylim=(len(rows) - 0.45, -0.65), xlabel=label)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    drawing.legend(loc="outside upper right", ncols=2)
    return drawing
