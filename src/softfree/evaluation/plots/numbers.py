"""Predicted numbers against true ones, and their differences."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softfree.evaluation.plots.style import INK, MUTED, RULE, SERIES, figure, legend_below, short, styled
from softfree.evaluation.value_metrics import agreement, intercept, slope
from softfree.evaluation.values import Values

MANY = 500
"""More points are drawn smaller."""


@styled
def predicted_against_true(values: Values) -> Figure:
    """Draw the true number of each sample against the predicted one, with the line of equality and that fitted to them.

    The truth is on the vertical axis, so that the fitted line is the calibration: the mean truth for a prediction.
    """
    drawing = figure(4.6)
    axes = drawing.subplots()
    known = ~np.isnan(values.predicted)
    truth, predicted, name = values.targets[known], values.predicted[known], short(values.task.classes[0])
    if known.any():
        ends = np.array([min(truth.min(), predicted.min()), max(truth.max(), predicted.max())])
        axes.plot(ends, ends, color=RULE, linewidth=1, zorder=0, label="equal")
        ones = np.ones((1, len(truth)))
        line = [float(fit(truth, predicted)(ones)[0]) for fit in (slope, intercept)]
        if not np.isnan(line).any():
            across = np.array([predicted.min(), predicted.max()])
            axes.plot(across, line[0] * across + line[1], color=SERIES[1], linestyle="--", label="fitted")
        axes.set_aspect("equal", adjustable="datalim")
        legend_below(axes, columns=2)
    _points(axes, predicted, truth)
    axes.set(xlabel=f"Predicted {name}", ylabel=f"True {name}")
    return drawing


@styled
def bland_altman(values: Values) -> Figure:
    """Draw prediction minus truth against their mean, with bias and limits of agreement (Bland and Altman, 1986)."""
    drawing = figure(4.2)
    axes = drawing.subplots()
    known = ~np.isnan(values.predicted)
    truth, predicted, name = values.targets[known], values.predicted[known], short(values.task.classes[0])
    error = predicted - truth
    axes.axhline(0, color=RULE, linewidth=1, zorder=0)
    if known.any():
        for deviations, look, label in ((0.0, "-", "bias"), (1.96, "--", "limits of agreement"), (-1.96, "--", None)):
            level = float(agreement(error, deviations)(np.ones((1, len(error))))[0])
            if not np.isnan(level):
                axes.axhline(level, color=SERIES[1], linestyle=look, linewidth=1, label=label)
        legend_below(axes, columns=2)
    _points(axes, (truth + predicted) / 2, error)
    axes.set(xlabel=f"Mean of predicted and true {name}", ylabel="Predicted minus true")
    return drawing


def _points(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if not len(x):
        axes.text(0.5, 0.5, "no samples", ha="center", va="center", color=MUTED, transform=axes.transAxes)
        return
    size = 3.5 if len(x) <= MANY else 1.8
    axes.plot(x, y, "o", color=SERIES[0], markersize=size, alpha=0.6, markeredgewidth=0)
    axes.tick_params(labelcolor=INK)
