"""Reliability curves, decision curves and confusion matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from softfree.evaluation.bootstrap import patient_weights
from softfree.evaluation.calibration import ece
from softfree.evaluation.calibration import reliability as reliability_table
from softfree.evaluation.metric_specs import predict_labels
from softfree.evaluation.plots.style import (
    DASHES,
    INK,
    MUTED,
    RULE,
    SERIES,
    WIDTH,
    figure,
    legend_below,
    short,
    square,
    styled,
)
from softfree.evaluation.scores import Scores, missing_reason, undefined_reason

THRESHOLDS = np.linspace(0.01, 0.99, 99)
NUMBERED = 12
"""A confusion matrix with more classes is drawn without numbers."""


@styled
def reliability(scores: Scores, *, seed: int = 0) -> Figure:
    """Draw the observed share of positives against the predicted probability, and how often each is predicted.

    For a binary task the positive class is shown, for other exclusive classes whether the predicted one is correct, and
    for a multilabel task each finding.
    """
    drawing = figure(5.2)
    axes, below = drawing.subplots(2, height_ratios=(5, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=0)
    label = "Observed share of positives" if scores.task.by_threshold else "Share correct"
    square(axes, "", label)
    curves = _reliability_pairs(scores)
    errors = {name: ece(y, p) for name, (y, p, _) in curves.items()}
    named = list(curves) if len(curves) <= len(SERIES) else sorted(errors, key=errors.__getitem__)[:-4:-1]
    for name, (y, p, patients) in curves.items():
        table = reliability_table(y, p, patients, seed=seed)
        look: dict[str, Any] = {"color": MUTED, "alpha": 0.4, "zorder": 1}
        if name in named:
            i = named.index(name)
            look = {"color": SERIES[i], "linestyle": DASHES[i], "marker": "o", "label": short(name)}
        axes.plot(table.predicted, table.observed, markersize=3.5, linewidth=1, **look)
        if len(curves) == 1:
            axes.vlines(table.predicted, table.low, table.high, color=SERIES[0], linewidth=1, alpha=0.6)
    if len(curves) > 1:
        axes.legend(loc="upper left", title="largest errors" if len(named) < len(curves) else None, alignment="left")
    if not curves:
        axes.text(0.5, 0.5, "no curve: no samples", ha="center", va="center", color=MUTED)
    _histogram(below, [p for _, p, _ in curves.values()])
    return drawing


@styled
def decision_curve(scores: Scores, *, seed: int = 0, num_bootstrap: int = 500, level: float = 0.95) -> Figure:
    """Draw the net benefit of acting on the model's predictions over the threshold probability.

    After Vickers and Elkin, Medical Decision Making 26, 2006: at the threshold t, at which a patient or physician is
    indifferent between acting and not acting, one false alarm weighs t / (1 - t) of a case found. Of the existing
    packages none resamples patients, so this is computed here: see :func:`net_benefit`.

    A single class has a pointwise band from resampled patients, and the curve of acting on everyone; of several, the
    first six are drawn.
    """
    drawing = figure(4.9)
    axes = drawing.subplots()
    triples = {scores.task.classes[k]: scores.one_vs_rest(k) for k in scores.task.scored}
    curves = [(name, *triple) for name, triple in triples.items() if undefined_reason(*triple[:2]) is None]
    single = len(scores.task.scored) == 1
    for number, (name, y, p, patients) in enumerate(curves[: len(SERIES)]):
        benefit, everyone = net_benefit(y, p), np.ones((1, len(y)))
        look: dict[str, Any] = {"color": SERIES[number], "linestyle": DASHES[number]}
        label = "act on the model" if single else short(name)
        axes.plot(THRESHOLDS, benefit(everyone)[0], label=label, **look)
        if single:
            blocks = patient_weights(patients, num_bootstrap=num_bootstrap, seed=seed)
            draws = np.concatenate([benefit(weights) for weights in blocks])
            low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
            band = f"{level:.0%} band at each point".replace("%", " %")
            axes.fill_between(THRESHOLDS, low, high, color=SERIES[0], alpha=0.16, linewidth=0, label=band)
            treated = net_benefit(y, np.ones(len(y)))(everyone)[0]
            axes.plot(THRESHOLDS, treated, color=MUTED, linewidth=1, linestyle=":", label="act on everyone")
    axes.axhline(0, color=RULE, linewidth=1, zorder=0)
    top = max([0.1, *(float(y.mean()) for _, y, _, _ in curves)])
    axes.set(xlim=(0, 1), ylim=(-0.15 * top, 1.1 * top), xlabel="Threshold probability", ylabel="Net benefit")
    if curves:
        legend_below(axes)
    else:
        axes.text(0.5, 0.05, "no curve: a class is absent", ha="center", va="center", color=MUTED)
    return drawing


def net_benefit(y: np.ndarray, p: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Compute ``TP / n - FP / n t / (1 - t)`` at :data:`THRESHOLDS` for resamples, from ``(b, n)`` to ``(b, T)``."""
    called = p[:, None] >= THRESHOLDS  # (n, T)
    hits, alarms = called * (y == 1)[:, None], called * (y == 0)[:, None]
    gain = hits - alarms * (THRESHOLDS / (1 - THRESHOLDS))
    return lambda weights: weights @ gain / weights.sum(axis=1, keepdims=True)


@styled
def confusion(counts: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draw a confusion matrix, shaded by the share of each true class.

    Args:
        counts: ``(K, K)`` numbers of samples; rows are true classes, columns predicted ones.
        classes: Names of the classes.
    """
    size = len(classes)
    drawing = figure(3.9 if size <= NUMBERED else 5.0, WIDTH if size <= NUMBERED else 5.4)
    axes = drawing.subplots()
    axes.set_anchor("N")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, column in np.argwhere(counts > 0):
        shade = 0.62 * shares[row, column]  # text stays readable on the darkest cell, in light and dark
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=SERIES[0], alpha=shade, linewidth=0))
    if size <= NUMBERED:
        for row in range(size):
            for column in range(size):
                _cell(axes, row, column, int(counts[row, column]), float(shares[row, column]), size)
    letters = 8.5 if size <= 8 else 7 if size <= 20 else 5
    names = [short(name, 16) for name in classes]
    middle = np.arange(size) + 0.5
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if size > 2 else {}
    axes.set_xticks(middle, names, fontsize=letters, **turn)
    axes.set_yticks(middle, names, fontsize=letters)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set(xlim=(0, size), ylim=(size, 0), xlabel="Predicted", ylabel="True", aspect="equal")
    axes.spines[:].set_visible(True)
    return drawing


def _reliability_pairs(scores: Scores) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    task = scores.task
    if not task.by_threshold:
        called = predict_labels(scores, None)
        correct = called[np.arange(len(scores)), scores.targets].astype(np.int64)
        pairs = {"predicted class": (correct, (scores.probabilities * called).sum(1), scores.patients)}
    else:
        pairs = {task.classes[k]: scores.one_vs_rest(k) for k in task.scored}
    return {name: triple for name, triple in pairs.items() if missing_reason(triple[1]) is None}


def _histogram(axes: Axes, predicted: list[np.ndarray]) -> None:
    if predicted:
        axes.hist(np.concatenate(predicted), bins=20, range=(0, 1), color=MUTED, alpha=0.5, rwidth=0.9)
    axes.set(xlabel="Predicted probability", ylabel="Samples")
    axes.locator_params(axis="y", nbins=2, integer=True)


def _cell(axes: Axes, row: int, column: int, count: int, share: float, size: int) -> None:
    weak: dict[str, Any] = {} if count else {"color": MUTED}
    if size > 6:
        axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", fontsize=8.5, **weak)
        return
    axes.text(column + 0.5, row + 0.44, str(count), ha="center", va="center", fontsize=12 if size < 4 else 10, **weak)
    words = f"{share:.0%}".replace("%", " %")
    axes.text(column + 0.5, row + 0.68, words, ha="center", va="center", fontsize=8.5, color=INK if count else MUTED)
