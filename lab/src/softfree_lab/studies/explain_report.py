"""The report of a study of saliency maps: a table and two figures."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softfree.evaluation.plots.style import DASHES, INK, MUTED, RULE, SERIES, STYLE
from softfree.saliency.options import MapMethod
from softfree_lab.studies.explain_images import RANDOM, SURE
from softfree_runtime.core.files import replacing

MEASURES = {
    "net": "net for the class\n(higher is better)",
    "deletion": "deletion minus random\n(lower is better)",
    "insertion": "insertion minus random\n(higher is better)",
    "pointing": "pointing game\n(higher is better)",
    "localization": "localization area\n(higher is better)",
    "head": "correlation with\na random head",
    "all": "correlation with\nrandom weights",
}
EVERY = "all classes"
"""Name of all classes together in a summary."""
COLORS = dict(zip(get_args(MapMethod), (*SERIES, INK), strict=True)) | {RANDOM: MUTED}
NOTES = {
    "net": f"Net for the class: of the predictions with a probability of {SURE} or more, the share whose map sums to"
    " more than zero.",
    "deletion": "Deletion and insertion: area under the probability of the class as tokens are removed from the image"
    " or inserted, those with the highest values first, minus the area for random orders.",
    "pointing": "Pointing game: how often the highest token lies on the finding; localization area: ROC area of the map"
    " for the finding's tokens. Both on images that have the class, for that class. By chance: {chance:.3f} and 0.5.",
    "head": "Random head, random weights: absolute rank correlation with the map of the same model after that part of"
    " its weights was shuffled; a map that stays the same does not show what the model has learned.",
}


def to_markdown(rows: pd.DataFrame, summary: pd.DataFrame, unreadable: Sequence[str] = ()) -> str:
    """Lay out the mean of each measure, one row per attention and method, for all classes and then for each."""
    images, patients = rows["row"].nunique(), rows["patient"].nunique()
    chance = rows["chance"].mean() if "chance" in rows else math.nan
    paragraphs = [
        f"{rows['run'].nunique()} runs, {images} test images of {patients} patients. Numbers are means over the"
        " runs of an attention and images [95 % interval over patients].",
        *(note.format(chance=chance) for measure, note in NOTES.items() if measure in set(summary["measure"])),
    ]
    if unreadable:
        paragraphs.append(f"Left out because they could not be read: {'; '.join(unreadable)}.")
    for target, own in summary.groupby("target", sort=False):
        if target == EVERY and summary["target"].nunique() == 2:  # the only class
            continue
        paragraphs.append(f"## {'All classes' if target == EVERY else f'Explained for {target}'}")
        paragraphs.append("\n".join(_table(own)))
    return "\n\n".join(paragraphs) + "\n"


def _table(own: pd.DataFrame) -> Iterator[str]:
    measures = [name for name in MEASURES if name in set(own["measure"])]
    yield f"| attention (runs) | method | {' | '.join(MEASURES[name].replace(chr(10), ' ') for name in measures)} |"
    yield "|---" * (len(measures) + 2) + "|"
    for attention, method in _keys(own):
        group = own[(own["attention"] == attention) & (own["method"] == method)]
        cells = {cell["measure"]: cell for cell in group.to_dict("records")}
        numbers = [_number(cells[name]) if name in cells else "" for name in measures]
        yield f"| {attention} ({group['runs'].iloc[0]}) | {method} | {' | '.join(numbers)} |"


def _keys(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the pairs of attention and method in order."""
    return list(dict.fromkeys(zip(summary["attention"], summary["method"], strict=True)))


def _number(cell: Mapping[Hashable, Any]) -> str:
    interval = "" if math.isnan(cell["low"]) else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['value']:.3f}{interval}"


def plot_measures(path: Path, summary: pd.DataFrame) -> None:
    """Plot one panel per measure, one block per attention, with the mean and interval of each method."""
    measures = [name for name in MEASURES if name in set(summary["measure"])]
    keys = _keys(summary)
    heights = _heights([attention for attention, _ in keys])
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(1.7 + 1.75 * len(measures), 1.6 + 0.21 * heights[-1]), layout="constrained")
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            _forest(axes, summary[summary["measure"] == measure], dict(zip(keys, heights, strict=True)))
            axes.set_title(MEASURES[measure], fontsize=8.5, loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            if measure not in ("deletion", "insertion"):
                axes.set_xlim(-0.05, 1.05)
            axes.axvline(0.5 if measure == "localization" else 0, color=MUTED, linewidth=0.8)
        panels[0].set_yticks(heights, [method for _, method in keys])
        panels[0].set_ylim(heights[-1] + 0.7, 0.5)
        for attention in dict.fromkeys(attention for attention, _ in keys):
            first = heights[next(i for i, key in enumerate(keys) if key[0] == attention)]
            panels[0].annotate(attention, (0, first - 1), xycoords=("axes fraction", "data"), va="center", ha="right",
                               xytext=(-4, 0), textcoords="offset points", fontweight="bold")  # fmt: skip
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _heights(attentions: Sequence[str]) -> list[float]:
    """Return the heights of the rows, with room for a heading above each block."""
    heights, height = [], 0.0
    for number, attention in enumerate(attentions):
        height += 1 + (1.2 if number == 0 or attention != attentions[number - 1] else 0)
        heights.append(height)
    return heights


def _forest(axes: Axes, own: pd.DataFrame, heights: dict[tuple[str, str], float]) -> None:
    for cell in own.to_dict("records"):
        height, color = heights[cell["attention"], cell["method"]], COLORS[cell["method"]]
        axes.hlines(height, cell["low"], cell["high"], color=color, linewidth=2, alpha=0.6)
        axes.plot(cell["value"], height, "o", color=color, markersize=4.5)
    axes.grid(axis="x", color=RULE, linewidth=0.5)
    axes.tick_params(axis="y", length=0)


def plot_curves(path: Path, curves: pd.DataFrame) -> None:
    """Plot deletion above insertion; one column per attention, one line per method and one for random orders."""
    attentions = list(curves["attention"].unique())
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(0.8 + 2.6 * len(attentions), 5.6), layout="constrained")
        grid = figure.subplots(2, len(attentions), sharex=True, sharey=True, squeeze=False)
        for column, attention in enumerate(attentions):
            own = curves[curves["attention"] == attention]
            for row, kind in enumerate(("deletion", "insertion")):
                _lines(grid[row, column], own, kind)
            grid[0, column].set_title(attention, loc="left", fontweight="bold")
            grid[1, column].set_xlabel("share of the tokens")
        grid[0, 0].set_ylabel("probability, tokens removed")
        grid[1, 0].set_ylabel("probability, tokens inserted")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=round(2.4 * len(attentions)), handlelength=2.4)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _lines(axes: Axes, own: pd.DataFrame, kind: str) -> None:
    for number, method in enumerate(COLORS):
        line = own[own["method"] == method]
        if len(line):
            # A small finding changes the curve within the first tokens: a square root stretches these.
            dash = DASHES[number % len(DASHES)]
            axes.plot(line["share"], line[kind], color=COLORS[method], label=method, linestyle=dash)
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    ticks = [0, 0.05, 0.25, 0.5, 1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(color=RULE, linewidth=0.5)
