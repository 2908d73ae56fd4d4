"""Scores by the number of training patients."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from softfree.evaluation.learning_curve import FARTHEST, Fitted, Point
from softfree.evaluation.plots.style import DASHES, MUTED, SERIES, figure, styled


@styled
def scores_by_size(
    patients: np.ndarray, scores: np.ndarray, points: list[Point], fitted: Fitted | None, name: str = "AUROC"
) -> Figure:
    """Draw each draw as a thin line, the means with their intervals, and the extrapolation dashed.

    Args:
        patients: ``(S,)``.
        scores: ``(D, S)``.
        points: Means of the sizes.
        fitted: The power law, or None.
        name: Of the score.
    """
    drawing = figure(3.4)
    axes = drawing.subplots()
    for draw in scores:
        axes.plot(patients, draw, color=MUTED, linewidth=0.8, alpha=0.6)
    means, lows, highs = (np.array([getattr(point, name) for point in points]) for name in ("mean", "low", "high"))
    if np.isfinite(lows).any():
        axes.errorbar(patients, means, (means - lows, highs - means), fmt="o", color=SERIES[0], markersize=5)
    else:
        axes.plot(patients, means, "o", color=SERIES[0], markersize=5)
    ticks = list(patients)
    if fitted is not None:
        inside = np.geomspace(patients[0], patients[-1], 60)
        beyond = np.geomspace(patients[-1], FARTHEST * patients[-1], 30)
        axes.plot(inside, fitted.law(inside), color=SERIES[0])
        axes.plot(beyond, fitted.law(beyond), color=SERIES[0], linestyle=DASHES[1])
        if fitted.laws:
            predicted = [fitted.predict(float(number)) for number in beyond]
            axes.fill_between(
                beyond,
                [p.low for p in predicted],
                [p.high for p in predicted],
                color=SERIES[0],
                alpha=0.15,
                linewidth=0,
            )
        ticks += [2 * patients[-1], FARTHEST * patients[-1]]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{number:.0f}" for number in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="Training patients", ylabel=name)
    return drawing
