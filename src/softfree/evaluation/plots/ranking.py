"""ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from softfree.evaluation.bootstrap import patient_weights
from softfree.evaluation.plots.style import DASHES, MUTED, RULE, SERIES, figure, legend_below, short, square, styled
from softfree.evaluation.scores import Scores, undefined_reason

MAX_POINTS = 400
GRID = np.linspace(0, 1, 101)
Curve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@styled
def roc(scores: Scores, *, seed: int = 0, num_bootstrap: int = 500, level: float = 0.95) -> Figure:
    """Draw the ROC curve of each scored class; a single one with a pointwise band from resampled patients."""
    drawing = figure(4.6)
    axes = drawing.subplots()
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=0)
    square(axes, "1 − specificity", "Sensitivity")
    curves = _classes(scores, roc_auc_score)
    if len(scores.task.scored) == 1 and curves:
        low, high = roc_band(
            *scores.one_vs_rest(scores.task.scored[0]), seed=seed, num_bootstrap=num_bootstrap, level=level
        )
        label = f"{level:.0%} band at each point".replace("%", " %")
        axes.fill_between(GRID, low, high, color=SERIES[0], alpha=0.16, linewidth=0, label=label)
    _draw(axes, scores, curves, lambda y, score: roc_curve(y, score)[:2], "AUROC")
    return drawing


@styled
def precision_recall(scores: Scores) -> Figure:
    """Draw the precision-recall curve of each scored class, as steps; a single one with the share of positives."""
    drawing = figure(4.6)
    axes = drawing.subplots()
    square(axes, "Recall (sensitivity)", "Precision (positive predictive value)")
    curves = _classes(scores, average_precision_score)
    if len(scores.task.scored) == 1 and curves:
        share = scores.one_vs_rest(scores.task.scored[0])[0].mean()
        axes.axhline(share, color=MUTED, linewidth=1, linestyle=":", zorder=0, label=f"share of positives {share:.2f}")
    _draw(axes, scores, curves, _recall_precision, "average precision", drawstyle="steps-pre")
    return drawing


def roc_band(
    y: np.ndarray, score: np.ndarray, patients: np.ndarray, *, seed: int, num_bootstrap: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the pointwise percentile band of the sensitivity at the false positive rates of :data:`GRID`."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    positive = y[order] == 1
    sensitivities = []
    for weights in patient_weights(patients, num_bootstrap=num_bootstrap, seed=seed):
        drawn = weights[:, order]
        sensitivity = np.cumsum(drawn * positive, axis=1)[:, ends]
        false = np.cumsum(drawn * ~positive, axis=1)[:, ends]
        for hits, alarms in zip(sensitivity, false, strict=True):
            if hits[-1] and alarms[-1]:
                sensitivities.append(np.interp(GRID, np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1])))
    if not sensitivities:
        return np.full_like(GRID, np.nan), np.full_like(GRID, np.nan)
    low, high = np.quantile(sensitivities, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _classes(scores: Scores, area: Callable[[np.ndarray, np.ndarray], float]) -> dict[int, float]:
    """Return the classes that have a curve, with the area under it."""
    pairs = {k: scores.one_vs_rest(k)[:2] for k in scores.task.scored}
    return {k: float(area(*pair)) for k, pair in pairs.items() if undefined_reason(*pair) is None}


def _recall_precision(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision, recall, _ = (values[::-1] for values in precision_recall_curve(y, score))
    rises = np.append(True, np.diff(recall) > 0)  # the steps whose area is the average precision
    precision, recall = precision[rises], recall[rises]
    precision[0] = precision[min(1, len(precision) - 1)]  # scikit-learn starts at (0, 1), which was not measured
    return recall, precision


def _draw(axes: Axes, scores: Scores, areas: dict[int, float], curve: Curve, name: str, **line: Any) -> None:
    """Draw all curves in color or, if there are too many to tell apart, the lowest three, and the others in gray."""
    if not areas:
        axes.text(0.5, 0.5, "no curve: a class is absent", ha="center", va="center", color=MUTED)
        return
    named = list(areas) if len(areas) <= len(SERIES) else sorted(areas, key=areas.__getitem__)[:3]
    for k in sorted(areas, key=lambda k: named.index(k) if k in named else -1):
        x, y = _thinned(*curve(*scores.one_vs_rest(k)[:2]))
        if k not in named:
            axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.45, zorder=1, **line)
            continue
        i = named.index(k)
        words = f"{short(scores.task.classes[k])}, {name} {areas[k]:.3f}"
        axes.plot(x, y, color=SERIES[i], linestyle=DASHES[i], zorder=2, label=words, **line)
    if len(named) < len(areas):
        axes.plot([], [], color=MUTED, linewidth=0.7, label=f"the other {len(areas) - len(named)} classes, all higher")
    legend_below(axes)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
    return x[keep], y[keep]
