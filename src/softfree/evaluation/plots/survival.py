"""Kaplan-Meier curves by risk, and predicted against observed survival."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from softfree.evaluation.kaplan_meier import halves, kaplan_meier, survival_at
from softfree.evaluation.plots.style import DASHES, MUTED, RULE, SERIES, figure, legend_below, short, square, styled
from softfree.evaluation.times import Times
from softfree_runtime.core.numbers import number_names

GROUPS, LEAST_OF_GROUP = 5, 10
"""Most groups of predicted survival, and the fewest samples of one."""


@styled
def by_risk(times: Times) -> Figure:
    """Draw the Kaplan-Meier curves, with 95 % intervals, of the halves with lower and higher risk."""
    drawing = figure(3.6)
    axes = drawing.subplots()
    high = halves(times.risks)
    for number, (name, rows) in enumerate((("lower risk", ~high), ("higher risk", high))):
        if not rows.any():
            continue
        curve = kaplan_meier(times.targets[rows])
        label = f"{name}: {curve.events} events, {curve.at_risk} samples"
        color, look = SERIES[number], DASHES[number]
        axes.fill_between(curve.times, curve.low, curve.high, step="post", color=color, alpha=0.15, linewidth=0)
        axes.step(curve.times, curve.survival, where="post", color=color, linestyle=look, label=label)
    axes.set(ylim=(-0.02, 1.02), xlabel=short(times.task.classes[0]), ylabel="Free of the event")
    axes.set_xlim(left=0)
    legend_below(axes)
    return drawing


@styled
def survival_calibration(times: Times) -> Figure:
    """Draw the Kaplan-Meier estimate against the mean predicted survival at each horizon, in groups of the latter."""
    drawing = figure(4.6)
    axes = drawing.subplots()
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=0)
    assert times.survival is not None
    for number, (name, horizon) in enumerate(zip(number_names(times.horizons), times.horizons, strict=True)):
        points = calibration_points(times.survival[:, number], times.targets, horizon)
        if len(points):
            color, look = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
            axes.plot(*points.T, color=color, linestyle=look, marker="o", markersize=4, label=f"at {name}")
    square(axes, "Predicted to be free of the event", "Free of it (Kaplan-Meier)")
    if axes.get_legend_handles_labels()[0]:
        legend_below(axes, columns=3)
    else:
        axes.text(0.5, 0.5, "not predicted", ha="center", color=MUTED)
    return drawing


def calibration_points(survival: np.ndarray, targets: np.ndarray, horizon: float) -> np.ndarray:
    """Return mean prediction and Kaplan-Meier estimate ``(G, 2)`` of up to five groups of equal size.

    Args:
        survival: ``(n,)`` predictions at the horizon; NaN are left out.
        targets: ``(n, 2)`` times and events.
        horizon: The time.
    """
    known = ~np.isnan(survival)
    survival, targets = survival[known], targets[known]
    groups = min(GROUPS, len(survival) // LEAST_OF_GROUP)
    parts = np.array_split(np.argsort(survival, kind="stable"), groups) if groups else []
    pairs = [(survival[part].mean(), survival_at(targets[part], np.array([horizon]))[0]) for part in parts]
    return np.array(pairs).reshape(-1, 2)
