"""Figures of the report; each function returns a matplotlib figure, :func:`svg` converts it to SVG for a page."""

from softfree.evaluation.plots.decisions import confusion, decision_curve, reliability
from softfree.evaluation.plots.numbers import bland_altman, predicted_against_true
from softfree.evaluation.plots.ranking import precision_recall, roc
from softfree.evaluation.plots.readers import Pair, pairs
from softfree.evaluation.plots.runs import Dot, dots, learning_curves
from softfree.evaluation.plots.style import svg
from softfree.evaluation.plots.survival import by_risk, survival_calibration

__all__ = [
    "Dot",
    "Pair",
    "bland_altman",
    "by_risk",
    "confusion",
    "decision_curve",
    "dots",
    "learning_curves",
    "pairs",
    "precision_recall",
    "predicted_against_true",
    "reliability",
    "roc",
    "survival_calibration",
    "svg",
]
