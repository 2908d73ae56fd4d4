"""Scores of the trials of a search."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softfree.evaluation.plots.style import INK, SERIES, figure, short, styled


@styled
def scores_by_trial(trials: pd.DataFrame) -> Figure:
    """Draw the score of each trial, and the best so far.

    Args:
        trials: Columns ``trial`` and ``auroc``, NaN for trials without a score.
    """
    drawing = figure(2.4)
    axes = drawing.subplots()
    rows = trials.dropna(subset="auroc")
    axes.plot(rows["trial"], rows["auroc"], "o", color=SERIES[0], markersize=4)
    axes.plot(rows["trial"], rows["auroc"].cummax(), color=INK, drawstyle="steps-post")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Trial", ylabel="AUROC")
    return drawing


@styled
def scores_by_option(trials: pd.DataFrame, name: str) -> Figure:
    """Draw the scores by the values of an option; numbers that span more than a factor of ten on a logarithmic axis.

    Args:
        trials: Columns ``auroc`` and the option's.
        name: Of the option.
    """
    drawing = figure(2.4)
    axes = drawing.subplots()
    rows = trials.dropna(subset="auroc")
    values = list(rows[name])
    if all(isinstance(value, float) for value in values):
        axes.plot(values, rows["auroc"], "o", color=SERIES[0], markersize=4)
        if min(values) > 0 and max(values) / min(values) > 10:
            axes.set_xscale("log")
    else:
        kinds = list(dict.fromkeys(map(str, values)))
        kinds = sorted(kinds, key=float) if all(kind.isdigit() for kind in kinds) else sorted(kinds)
        spread = np.linspace(-0.08, 0.08, max(1, len(values)))
        places = [kinds.index(str(value)) + shift for value, shift in zip(values, spread, strict=True)]
        axes.plot(places, rows["auroc"], "o", color=SERIES[0], markersize=4)
        axes.set_xticks(range(len(kinds)), [short(kind.lower(), 14) for kind in kinds])
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set(xlabel=name, ylabel="AUROC")
    return drawing
