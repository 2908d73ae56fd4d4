"""Plots of ablation studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softfree_lab.studies.summary import STATISTICS, TITLES, trials_table
from softfree_lab.studies.trials import Trial, TrialKey
from softfree_runtime.core.files import replacing

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
BLUE, GRAY = "#0b5fa5", "0.6"
BANDS = 4  # largest number of lines with a band for the interval; more would hide each other


def plot_variants(path: Path, summary: pd.DataFrame, trials: Mapping[TrialKey, Trial]) -> None:
    """Plot AUROC, balanced accuracy and training time: one line per variant, one block per data set."""
    seeds = trials_table(trials)
    names = list(dict.fromkeys(summary["data"]))
    sizes = [int((summary["data"] == name).sum()) for name in names]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, sum(0.9 + 0.32 * size for size in sizes)), layout="constrained")
        grid = figure.subplots(len(names), 3, squeeze=False, sharey="row", height_ratios=sizes, width_ratios=[2, 2, 1])
        for axes, name in zip(grid, names, strict=True):
            rows = summary[summary["data"] == name].reset_index(drop=True)
            for panel, statistic in zip(axes, STATISTICS, strict=False):
                _forest(panel, rows, seeds[(seeds["data"] == name) & (seeds["scale"] == 1.0)], statistic)
            axes[2].barh(rows.index, rows["cpu_seconds"], color=GRAY, height=0.5)
            axes[0].set_yticks(list(rows.index), rows["variant"])
            axes[0].invert_yaxis()
            axes[0].set_title(name, loc="left", fontsize=11, fontweight="bold")
        for panel, label in zip(grid[-1], (*TITLES.values(), "training, CPU s"), strict=True):
            panel.set_xlabel(label)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def plot_scales(path: Path, summary: pd.DataFrame) -> None:
    """Plot AUROC against the side at test time, relative to training: one line per variant."""
    names = list(dict.fromkeys(summary["data"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 4.5 * len(names), 4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            own = summary[summary["data"] == name]
            lines = [(variant, rows) for variant, rows in own.groupby("variant", sort=False) if len(rows) > 1]
            for variant, rows in lines:
                (line,) = axes.plot(rows["scale"], rows["auroc"], "o-", label=variant)
                if len(lines) <= BANDS:
                    band = rows["auroc_low"], rows["auroc_high"]
                    axes.fill_between(rows["scale"], *band, color=line.get_color(), alpha=0.12)
            axes.axvline(1, color=GRAY, linewidth=1, linestyle=":")
            axes.set(title=name, xlabel="side at test over side in training", ylabel="AUROC")
        figure.axes[-1].legend(frameon=False, bbox_to_anchor=(1, 0.5), loc="center left")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _forest(axes: Axes, rows: pd.DataFrame, seeds: pd.DataFrame, statistic: str) -> None:
    """Draw interval and mean of each variant, its seeds as rings, and a line at the reference."""
    for height, row in enumerate(rows.to_dict("records")):
        single = seeds[seeds["variant"] == row["variant"]][statistic]
        axes.plot(single, [height] * len(single), "o", mfc="none", mec=GRAY, markersize=4)
    axes.hlines(rows.index, rows[f"{statistic}_low"], rows[f"{statistic}_high"], color=BLUE, linewidth=2, alpha=0.6)
    axes.plot(rows[statistic], rows.index, "o", color=BLUE)
    axes.axvline(rows[statistic].iloc[0], color=GRAY, linewidth=1, linestyle=":")
    axes.grid(axis="x", color="0.92")
