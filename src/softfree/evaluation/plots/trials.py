"""Scores of the trials of a search."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softfree.evaluation.formatting import name_of
from softfree.evaluation.plots.style import INK, SERIES, figure, short, styled


@styled
def scores_by_trial(trials: pd.DataFrame, metric: str = "auroc", *, lower: bool = False) -> Figure:
    """Draw the score of each trial, and the best so far.

    Args:
        trials: Columns ``trial`` and the metric's, NaN for trials without a score.
        metric: Name of the score.
        lower: A lower score is better.
    """
    drawing = figure(2.4)
    axes = drawing.subplots()
    rows = trials.dropna(subset=metric)
    axes.plot(rows["trial"], rows[metric], "o", color=SERIES[0], markersize=4)
    best = rows[metric].cummin() if lower else rows[metric].cummax()
    axes.plot(rows["trial"], best, color=INK, drawstyle="steps-post")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Trial", ylabel=name_of(metric))
    return drawing


@styled
def scores_by_option(trials: pd.DataFrame, name: str, metric: str = "auroc") -> Figure:
    """Draw the scores by the values of an option; numbers that span more than a factor of ten on a logarithmic axis.

    Args:
        trials: Columns of the metric and of the option.
        name: Of the option.
        metric: Name of the score.
    """
    drawing = figure(2.4)
    axes = drawing.subplots()
    rows = trials.dropna(subset=metric)
    values = list(rows[name])
    if all(isinstance(value, float) for value in values):
        axes.plot(values, rows[metric], "o", color=SERIES[0], markersize=4)
        if min(values) > 0 and max(values) / min(values) > 10:
            axes.set_xscale("log")
    else:
        kinds = list(dict.fromkeys(map(str, values)))
        kinds = sorted(kinds, key=float) if all(kind.isdigit() for kind in kinds) else sorted(kinds)
        spread = np.linspace(-0.08, 0.08, max(1, len(values)))
        places = [kinds.index(str(value)) + shift for value, shift in zip(values, spread, strict=True)]
        axes.plot(places, rows[metric], "o", color=SERIES[0], markersize=4)
        axes.set_xticks(range(len(kinds)), [short(kind.lower(), 14) for kind in kinds])
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set(xlabel=name, ylabel=name_of(metric))
    return drawing
