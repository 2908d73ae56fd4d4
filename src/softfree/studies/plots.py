"""Plots of studies."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from softfree.files import replacing

TITLES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}


def plot_attentions(path: Path, summary: pd.DataFrame, *, title: str) -> None:
    """Two statistics with their intervals and the training time, a line for each attention."""
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 1.2 + 0.45 * len(summary)), layout="constrained")
        left, middle, right = figure.subplots(1, 3, sharey=True)
        heights = range(len(summary))
        for axes, name in ((left, "auroc"), (middle, "balanced_accuracy")):
            low, high = summary[f"{name}_low"], summary[f"{name}_high"]
            axes.hlines(heights, low, high, color="0.55", linewidth=2)
            axes.plot(summary[name], heights, "o", color="#0b5fa5")
            axes.set_xlabel(f"{TITLES[name]}, 95 % interval")
            axes.grid(axis="x", color="0.9")
        right.barh(heights, summary["cpu_seconds"], color="#0b5fa5", height=0.5)
        right.set_xlabel("training, CPU s")
        left.set_yticks(list(heights), summary["attention"])
        left.invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
