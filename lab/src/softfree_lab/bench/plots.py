"""Time and memory against size on logarithmic axes, as in the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from softfree_lab.bench.cases import FLOOR
from softfree_runtime.core.files import replacing

COLORS = ("#0b5fa5", "#c1440e", "#3a7d44", "#7b4ea3", "#a8791c", "#3f8f9b", "#e07bb5", "#1b1f24", "#9dbb36", "#6d4c41")
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def plot_growth(path: Path, rows: pd.DataFrame, *, size_name: str, title: str) -> None:
    """Draw time and peak memory of all methods, one row of panels per pass and precision."""
    done = rows[rows["status"] == "ok"]
    groups = list(done.groupby(["passes", "precision"], sort=False))
    methods = [method for method in done["method"].unique() if method != FLOOR]
    colors = dict(zip(methods, COLORS * (1 + len(methods) // len(COLORS)), strict=False))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 0.9 + 3.4 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), 2, squeeze=False, sharex=True)
        for ((passes, precision), group), (left, right) in zip(groups, axes, strict=True):
            for method, line in group.groupby("method", sort=False):
                style = {"color": "0.4", "linestyle": ":"} if method == FLOOR else {"color": colors[str(method)]}
                left.fill_between(line["size"], line["ms_low"], line["ms_high"], color=style["color"], alpha=0.2, lw=0)
                left.plot(line["size"], line["ms"], marker="o", markersize=3.5, label=str(method), **style)
                if method != FLOOR:
                    right.plot(line["size"], line["peak_mib"], marker="o", markersize=3.5, **style)
            left.set_title(f"{passes}, {NAMES[str(precision)]}", loc="left")
            left.set_ylabel("time, ms")
            right.set_ylabel("peak memory, MiB")
            for panel in (left, right):
                logarithmic(panel, sorted(done["size"].unique()))
                panel.tick_params(axis="x", labelrotation=30)
        for panel in axes[-1]:
            panel.set_xlabel(size_name)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        columns = 4 if max(map(len, labels)) < 20 else 3
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=140)


def logarithmic(axes: Axes, sizes: Sequence[float]) -> None:
    """Set up logarithmic axes with a tick at each of ``sizes`` and plain numbers; call it after drawing.

    Over two decades or fewer, 2 and 5 are labeled as well as 1, since a single power of ten gives no scale.
    """
    axes.set(xscale="log", yscale="log")
    low, high = axes.get_ylim()
    axes.set_xticks(sizes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high <= 100 * low else (1,)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.grid(color="0.92")
