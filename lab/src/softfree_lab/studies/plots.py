"""Plots of ablation studies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from softfree_lab.studies.summary import STATISTICS, TITLES, trials_table
from softfree_lab.studies.takeoff import LEVEL, steps_until
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


def tokens_of(trial: Trial) -> int | None:
    """Return the number of tokens of a square image, from the side and the name of the model; None without these."""
    side, patch = trial.options.get("size"), re.search(r"_patch(\d+)$", str(trial.options.get("model")))
    return None if side is None or patch is None else (-(-int(side) // int(patch[1]))) ** 2


def plot_tokens(path: Path, trials: Mapping[TrialKey, Trial]) -> bool:
    """Plot AUROC, steps until the validation AUROC reached 0.9, and training time against the number of tokens.

    Each trial is a point and each variant a line through its medians; a run that never reached the level is an open
    triangle at its last step.

    Returns:
        Whether there was something to plot: trials of at least two numbers of tokens.
    """
    rows = pd.DataFrame(
        [
            {"variant": key.variant, "tokens": tokens_of(trial), "auroc": row["auroc"], "cpu": row["cpu_seconds"]}
            | dict(zip(("steps", "reached"), steps_until(trial) or (None, False), strict=True))
            for key, trial in trials.items()
            for row in trials_table({key: trial}).query("scale == 1").to_dict("records")
        ]
    ).dropna(subset=["tokens"])
    if rows["tokens"].nunique() < 2:
        return False
    panels = {"auroc": "test AUROC", "steps": f"steps to a validation AUROC of {LEVEL:g}", "cpu": "training, CPU s"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for number, (variant, own) in enumerate(rows.groupby("variant", sort=False)):
                aside = 1 + 0.04 * number  # so that equal points of two variants are both seen
                _line_of_medians(axes, own.assign(tokens=own["tokens"] * aside), name, str(variant), f"C{number}")
            ticks = sorted(rows["tokens"].unique())
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            axes.set(xlabel="tokens", ylabel=label, yscale="log" if name == "cpu" else "linear")
            axes.xaxis.set_minor_locator(NullLocator())
        figure.axes[1].set_ylim(bottom=0)
        figure.axes[0].axhline(0.5, color=GRAY, linewidth=1, linestyle=":")
        figure.axes[-1].legend(frameon=False, bbox_to_anchor=(1, 0.5), loc="center left")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return True


def _line_of_medians(axes: Axes, rows: pd.DataFrame, name: str, label: str, color: str) -> None:
    """Draw the trials of a variant and the medians over its seeds; those that ended before the level as triangles."""
    reached = rows["reached"] | (name != "steps")
    axes.plot(rows["tokens"][reached], rows[name][reached], "o", color=color, alpha=0.45, markersize=4)
    axes.plot(rows["tokens"][~reached], rows[name][~reached], "^", mfc="none", mec=color, markersize=6)
    medians = rows.groupby("tokens")[name].median()
    axes.plot(medians.index, medians, "-", color=color, label=label)


def _forest(axes: Axes, rows: pd.DataFrame, seeds: pd.DataFrame, statistic: str) -> None:
    """Draw interval and mean of each variant, its seeds as rings, and a line at the reference."""
    for height, row in enumerate(rows.to_dict("records")):
        single = seeds[seeds["variant"] == row["variant"]][statistic]
        axes.plot(single, [height] * len(single), "o", mfc="none", mec=GRAY, markersize=4)
    axes.hlines(rows.index, rows[f"{statistic}_low"], rows[f"{statistic}_high"], color=BLUE, linewidth=2, alpha=0.6)
    axes.plot(rows[statistic], rows.index, "o", color=BLUE)
    axes.axvline(rows[statistic].iloc[0], color=GRAY, linewidth=1, linestyle=":")
    axes.grid(axis="x", color="0.92")
