"""Learning curves, and dot plots that compare models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softfree.evaluation.plots.style import DASHES, INK, MUTED, RULE, SERIES, figure, short, styled

PANELS = (
    ("Loss", {"train_loss": "training", "val_loss": "validation"}),
    ("AUROC", {"val_auroc": "validation"}),
    ("Absolute error", {"val_mae": "validation"}),
    ("C-index", {"val_c_index": "validation"}),
    ("Learning rate", {"lr": ""}),
)


class Dot(NamedTuple):
    """One line of a dot plot; ``low`` and ``high`` are NaN without an interval."""

    name: str
    value: float
    low: float
    high: float


@styled
def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw losses, validation AUROC and learning rate by epoch, with the best epoch marked.

    Args:
        history: One row per epoch (or several, with gaps), columns ``epoch`` and any of ``train_loss``, ``val_loss``,
            ``val_auroc``, ``val_mae``, ``val_c_index``, ``lr``.
    """
    panels = [(name, {c: w for c, w in columns.items() if c in history}) for name, columns in PANELS]
    panels = [(name, columns) for name, columns in panels if columns]
    heights = [1.7 if name != "Learning rate" else 0.9 for name, _ in panels]
    drawing = figure(0.6 + sum(heights))
    grid = drawing.subplots(len(panels), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    colors = {"train_loss": MUTED, "lr": MUTED}
    best = _best_epoch(history)
    for axes, (name, columns) in zip(grid, panels, strict=True):
        for column, label in columns.items():
            logged = history[["epoch", column]].dropna()
            look = DASHES[1] if column == "train_loss" else "-"
            marker = "o" if len(logged) < 3 else ""
            axes.plot(
                logged["epoch"],
                logged[column],
                color=colors.get(column, SERIES[0]),
                linestyle=look,
                marker=marker,
                label=label or None,
            )
        if best is not None:
            axes.axvline(best, color=SERIES[1], linewidth=1, linestyle=":")
        axes.set_ylabel(name)
        if len(columns) > 1:
            axes.legend(loc="upper right")
        if name in ("AUROC", "Absolute error", "C-index"):
            if name != "Absolute error":
                _widen(axes)
            if best is not None:
                left = best > history["epoch"].max() / 2
                axes.annotate(f"best: epoch {best}", (best, 0), (-4 if left else 4, 4), color=SERIES[1], fontsize=8.5,
                              xycoords=("data", "axes fraction"), textcoords="offset points",
                              ha="right" if left else "left")  # fmt: skip
    grid[-1].set_xlabel("Epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing


@styled
def dots(rows: Sequence[Dot], label: str, reference: float | None = None) -> Figure:
    """Draw values with their intervals in rows, with names above the dots.

    Args:
        rows: From top to bottom.
        label: Axis label.
        reference: Value of a reference line.
    """
    drawing = figure(0.75 + 0.44 * max(len(rows), 1))
    axes = drawing.subplots()
    if reference is not None and not math.isnan(reference):
        axes.axvline(reference, color=RULE, linewidth=1, zorder=0)
    for line, row in enumerate(rows):
        axes.text(0, line - 0.3, short(row.name, 44), transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        if math.isnan(row.value):
            axes.text(1, line - 0.3, "no value", transform=axes.get_yaxis_transform(), va="center", ha="right",
                      color=MUTED, fontsize=8.5)  # fmt: skip
            continue
        axes.hlines(line + 0.1, row.low, row.high, color=SERIES[0], linewidth=1.6)
        axes.plot(row.value, line + 0.1, marker="o", markersize=5, color=SERIES[0] if line else INK)
    axes.set(ylim=(len(rows) - 0.5, -0.6), xlabel=label)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return drawing


def _widen(axes: Axes, least: float = 0.1) -> None:
    """Keep the axis from exaggerating meaningless differences."""
    low, high = axes.get_ylim()
    spare = max(0.0, least - (high - low)) / 2
    high = min(1 + least / 20, high + spare)
    axes.set_ylim(min(low, high - least), high)


def _best_epoch(history: pd.DataFrame) -> int | None:
    for column, sign in (("val_auroc", 1), ("val_c_index", 1), ("val_mae", -1)):
        if column in history and not history[column].isna().all():
            return int(history["epoch"].to_numpy()[np.nanargmax(sign * history[column].to_numpy())])
    return None
