"""Latency and peak memory of exported models against the side of the image, on logarithmic axes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from softfree_lab.bench.edge_cases import PYTORCH
from softfree_lab.bench.edge_tables import clock_of
from softfree_lab.bench.plots import COLORS, logarithmic
from softfree_runtime.core.files import replacing


def plot_edge(path: Path, rows: pd.DataFrame, title: str) -> None:
    """Draw a row of panels for each number of threads, runtime and precision; PyTorch is dotted beside float32."""
    done = rows[rows["status"] == "ok"]
    groups = list(done[done["runtime"] != PYTORCH].groupby(["threads", "runtime", "precision"], sort=False))
    if not groups:
        return
    colors = dict(zip(done["method"].unique(), COLORS, strict=False))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 1.3 + 3.2 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), 2, squeeze=False, sharex=True)
        for ((threads, runtime, precision), part), pair in zip(groups, axes, strict=True):
            own = done[(done["runtime"] == PYTORCH) & (done["threads"] == threads)]
            clock = clock_of(cast(int, threads))
            for one, name in zip(pair, (clock, "peak_mib"), strict=True):
                _draw(one, part, name, colors, "-")
                if precision == "float32":
                    _draw(one, own, name, colors, ":")
                logarithmic(one, sorted(done["size"].unique()))
            pair[0].set_title(f"{runtime}, {precision}, {threads} thread{'s' * (threads != 1)}", loc="left")
            pair[0].set_ylabel("latency, ms" if clock == "ms" else "processor time, ms")
            pair[1].set_ylabel("peak memory, MiB")
        for one in axes[-1]:
            one.set_xlabel("side of the image, pixels")
        handles = [Line2D([], [], color=color, marker="o", markersize=3.5) for color in colors.values()]
        labels = [str(method) for method in colors]
        if (done["runtime"] == PYTORCH).any():
            handles.append(Line2D([], [], color="0.4", linestyle=":"))
            labels.append("PyTorch, float32")
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=140)


def _draw(axes: Axes, rows: pd.DataFrame, name: str, colors: dict[str, str], style: str) -> None:
    for method, line in rows.groupby("method", sort=False):
        color = colors[str(method)]
        if name == "ms" and style == "-":
            axes.fill_between(line["size"], line["ms_low"], line["ms_high"], color=color, alpha=0.2, lw=0)
        inside = "white" if style == ":" else color
        axes.plot(line["size"], line[name], style, marker="o", markersize=3.5, color=color, markerfacecolor=inside)
