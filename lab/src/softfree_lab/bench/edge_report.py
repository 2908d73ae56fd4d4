"""The report of ``softfree-lab bench edge``: ratios to softmax, PyTorch and float32, Markdown tables, and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from softfree_lab.bench.edge_cases import PYTORCH
from softfree_lab.bench.plots import COLORS, logarithmic
from softfree_lab.records import markdown_table
from softfree_runtime.core.files import replacing

KEY = ["method", "runtime", "precision", "threads", "size"]
NOTE = (
    "Softmax is onnxruntime's own fused MultiHeadAttention; \"softmax standard\" is ONNX's operator Attention. With "
    "one thread, ratios are of processor time, which other work on the machine disturbs less; with more, of latency."
)
# Title, column, number of digits.
SHOWN = (
    ("Latency, milliseconds (median)", "ms", 0),
    ("Processor time, milliseconds (median)", "cpu_ms", 0),
    ("Speed relative to softmax in the same runtime and precision", "over_softmax", 2),
    ("Speed relative to PyTorch in float32 with as many threads", "over_pytorch", 2),
    ("Speed relative to float32 in the same runtime", "over_float32", 2),
    ("Peak memory, MiB (weights, input, runtime and run)", "peak_mib", 0),
    ("Peak memory relative to softmax", "memory_to_softmax", 2),
    ("Energy per inference, joules (all processors)", "joules", 2),
    ("Largest difference of a logit from PyTorch's, relative to the largest logit", "error", 6),
)


def clock_of(threads: int) -> str:
    """Return the time that ratios use: processor time with one thread, which other work disturbs less, else latency."""
    return "cpu_ms" if threads == 1 else "ms"


def with_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the speed of each row relative to softmax, to PyTorch and to float32, and its memory relative to softmax."""
    counted = rows["cpu_ms"].where(rows["threads"].map(clock_of) == "cpu_ms", rows["ms"]).astype(float)
    timed = rows.assign(counted=counted)
    return rows.assign(
        over_softmax=_of(timed, {"method": "softmax"}, "counted") / counted,
        over_pytorch=_of(timed, {"runtime": PYTORCH, "precision": "fp32"}, "counted") / counted,
        over_float32=_of(timed, {"precision": "fp32"}, "counted") / counted,
        memory_to_softmax=rows["peak_mib"].astype(float) / _of(rows, {"method": "softmax"}, "peak_mib"),
    )


def _of(rows: pd.DataFrame, other: dict[str, str], name: str) -> pd.Series:
    """Return a column of the row that each row is compared with; NaN if there is none."""
    keys = pd.MultiIndex.from_frame(rows[KEY].assign(**other))
    values = rows.set_index(KEY)[name].astype(float).reindex(keys)
    return pd.Series(values.to_numpy(), index=rows.index)


def edge_tables(rows: pd.DataFrame, title: str) -> str:
    """Lay out all tables that have a number, one row per method, and the skipped cases with their reasons."""
    parts = [title + "\n", NOTE + "\n"]
    for heading, name, digits in SHOWN:
        if rows[name].notna().any():
            parts += [f"{heading}:\n", _by_side(rows, name, digits)]
        elif name == "joules":
            parts += ["Energy: this machine has no readable counters (/sys/class/powercap/intel-rapl:*).\n"]
    files = rows.dropna(subset="file_mb").drop_duplicates(["method", "runtime", "precision"])
    if len(files):
        sizes = [(row.method, row.runtime, row.precision, f"{row.file_mb:.1f}") for row in files.itertuples()]
        parts += ["Files, MB:\n", markdown_table(("method", "runtime", "precision", "MB"), sizes)]
    skipped = rows[rows["status"] != "ok"]
    if len(skipped):
        names = [*KEY, "status", "reason"]
        parts += ["Not measured:\n", markdown_table(names, skipped[names].to_numpy().tolist())]
    return "\n".join(parts)


def _by_side(rows: pd.DataFrame, name: str, digits: int) -> str:
    sides = sorted(rows["size"].unique())
    lines = []
    for key, group in rows.groupby(KEY[:-1], sort=False):
        cells = group.set_index("size")[name].reindex(sides)
        if cells.notna().any():
            lines.append([*key, *("" if pd.isna(cell) else f"{cell:,.{digits}f}" for cell in cells)])
    return markdown_table((*KEY[:-1], *(f"{side:,}" for side in sides)), lines)


def plot_edge(path: Path, rows: pd.DataFrame, title: str) -> None:
    """Draw one row of panels per number of threads, runtime and precision; PyTorch is dotted, next to float32."""
    done = rows[rows["status"] == "ok"]
    groups = list(done[done["runtime"] != PYTORCH].groupby(["threads", "runtime", "precision"], sort=False))
    if not groups:
        return
    colors = dict(zip(done["method"].unique(), COLORS, strict=False))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 1.3 + 3.2 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), 2, squeeze=False, sharex=True)
        for ((threads, runtime, precision), group), pair in zip(groups, axes, strict=True):
            own = done[(done["runtime"] == PYTORCH) & (done["threads"] == threads)]
            clock = clock_of(cast(int, threads))
            for panel, name in zip(pair, (clock, "peak_mib"), strict=True):
                _draw(panel, group, name, colors, "-")
                if precision == "fp32":
                    _draw(panel, own, name, colors, ":")
                logarithmic(panel, sorted(done["size"].unique()))
            pair[0].set_title(f"{runtime}, {precision}, {threads} thread{'s' * (threads != 1)}", loc="left")
            pair[0].set_ylabel("latency, ms" if clock == "ms" else "processor time, ms")
            pair[1].set_ylabel("peak memory, MiB")
        for panel in axes[-1]:
            panel.set_xlabel("side of the image, pixels")
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
