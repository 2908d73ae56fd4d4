"""The report of a robustness study: two tables and a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from softfree.evaluation.plots.style import DASHES, MUTED, RULE, SERIES, STYLE
from softfree_lab.studies.corruptions import LEVELS, STRENGTHS, UNITS
from softfree_runtime.core.files import replacing

OTHER, MEAN = "other table", -1
NONE = "none"
"""Names of another table, the mean over strengths and the original images in a summary."""
COLUMNS = 3  # of panels


def to_markdown(rows: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Lay out the mean drop of each attention, then its AUROC at each strength."""
    lines = [
        _counts(rows),
        "Numbers are means over the runs of an attention [95 % interval over patients].",
        "",
        "## Drop in AUROC, mean over the five strengths",
        "",
        *_drops(summary),
        "",
        "## AUROC at each strength",
        "",
        *_strengths(summary),
    ]
    reasons = filter(None, summary["reason"].unique())
    return "\n".join([*lines, "", *(f"Missing intervals: {reason}." for reason in reasons)]).rstrip() + "\n"


def _counts(rows: pd.DataFrame) -> str:
    """Return a sentence with the numbers of runs, images and unreadable images."""
    counts = []
    for where, name in (
        (rows["corruption"] == NONE, "test images"),
        (rows["corruption"] == OTHER, "of the other table"),
    ):
        for n, unreadable in rows[where][["n", "unreadable"]].drop_duplicates().itertuples(index=False):
            counts.append(f"{n} {name}" + (f" ({unreadable} more could not be read)" * (unreadable > 0)))
    return f"{rows['run'].nunique()} runs; {', '.join(counts)}."


def _drops(summary: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of a table with one row per attention and one column per corruption."""
    shown = summary[(summary["strength"] == MEAN) | (summary["corruption"] == OTHER)]
    kinds = list(shown["corruption"].unique())
    yield f"| attention (runs) | AUROC on original images | {' | '.join(kinds)} |"
    yield "|---" * (len(kinds) + 2) + "|"
    for attention, own in summary.groupby("attention", sort=False):
        by_kind = shown[shown["attention"] == attention].set_index("corruption")
        cells = [f"{attention} ({own['runs'].iloc[0]})", _number(own[own["corruption"] == NONE].iloc[0])]
        yield f"| {' | '.join(cells + [_number(by_kind.loc[kind], 'drop', 'drop_') for kind in kinds])} |"


def _strengths(summary: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of a table with one row per corruption and attention, one column per strength."""
    yield f"| corruption | attention | original | {' | '.join(map(str, STRENGTHS))} |"
    yield "|---" * (len(STRENGTHS) + 3) + "|"
    for kind in _kinds(summary):
        yield f"| **{kind}**: {UNITS[kind]} | | | {' | '.join(f'{value:g}' for value in LEVELS[kind])} |"
        for attention, own in summary.groupby("attention", sort=False):
            curve = _curve(own, kind)
            yield f"| {kind} | {attention} | {' | '.join(_number(row) for _, row in curve.iterrows())} |"


def _kinds(summary: pd.DataFrame) -> list[str]:
    return list(summary.loc[summary["strength"] > 0, "corruption"].unique())


def _curve(own: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Select the rows of strength 0 to 5 of one attention."""
    selected = (own["corruption"] == NONE) | ((own["corruption"] == kind) & (own["strength"] > 0))
    return own[selected].sort_values("strength")


def _number(row: Any, name: str = "auroc", prefix: str = "") -> str:
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    interval = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return f"{row[name]:.3f}{interval}"


def plot_robustness(path: Path, summary: pd.DataFrame) -> None:
    """Plot AUROC against strength: one panel per corruption, one line with its interval per attention."""
    kinds = _kinds(summary)
    columns = max(1, min(COLUMNS, len(kinds)))
    rows = max(1, -(-len(kinds) // columns))
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        size = (3.1 * columns + 0.6, 2.6 * rows + 0.5)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, kind in zip(panels, kinds, strict=False):
            _panel(axes, summary, kind)
        for axes in panels[len(kinds) :]:
            axes.set_axis_off()
        for axes in panels[::columns]:
            axes.set_ylabel("AUROC")
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)), handlelength=2.8)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _panel(axes: Axes, summary: pd.DataFrame, kind: str) -> None:
    axes.axhline(0.5, color=MUTED, linewidth=0.6)
    axes.annotate("chance", (0, 0.5), (0, 2), textcoords="offset points", color=MUTED, fontsize=7.5)
    for number, (attention, own) in enumerate(summary.groupby("attention", sort=False)):
        curve = _curve(own, kind)
        color, dash = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
        axes.fill_between(curve["strength"], curve["low"], curve["high"], color=color, alpha=0.14, linewidth=0)
        axes.plot(
            curve["strength"], curve["auroc"], color=color, linestyle=dash, marker="o", markersize=3, label=attention
        )
    axes.set_title(kind, loc="left", fontweight="bold")
    axes.set_xticks([0, *STRENGTHS], ["original", *(f"{value:g}" for value in LEVELS[kind])])
    axes.set_xlabel(UNITS[kind])
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
