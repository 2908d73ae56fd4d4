"""The area under the ROC curve, its variance and the paired comparison of two, by DeLong.

E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44:837-845 (1988), with the midranks of X. Sun and W. Xu, IEEE
Signal Processing Letters 21:1389-1393 (2014): O(n log n) time and O(n) memory. Held against R's pROC in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from softfree.evaluation.intervals import Interval, hanley_mcneil, newcombe, no_interval
from softfree.evaluation.scores import obstacle

Kind = Literal["score", "wald"]
FEW = 5.0
"""Samples of the smaller class on the wrong side up to which DeLong's variance is believed only where it is large."""


@dataclass(frozen=True)
class Auroc:
    """An area under the ROC curve with DeLong's variance; ``reason`` says why a number is NaN."""

    value: float
    variance: float
    low: float
    high: float
    method: str
    reason: str | None = None


@dataclass(frozen=True)
class PairedAuroc:
    """Two areas on the same samples and their difference ``a - b``; ``p`` is two-sided.

    ``few`` says that so few samples are on the wrong side in one of both that the interval may be much too narrow.
    """

    a: float
    b: float
    difference: float
    standard_error: float
    low: float
    high: float
    z: float
    p: float
    reason: str | None = None
    few: bool = False


def placements(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the share of the other class that each sample is on the right side of, ties counting one half.

    Args:
        y: ``(n,)`` truth, 1 positive.
        score: ``(n,)`` higher for positive; no NaN.

    Returns:
        One number for each positive, in order (V10 in the paper), and for each negative (V01). Both average the AUROC.
    """
    positive = y == 1
    overall = rankdata(score)  # float64 midranks: exact to n = 2^53, unlike products of counts in integers
    within_positive, within_negative = rankdata(score[positive]), rankdata(score[~positive])
    negatives, positives = len(within_negative), len(within_positive)
    return (
        (overall[positive] - within_positive) / negatives,
        1 - (overall[~positive] - within_negative) / positives,
    )


def auroc(y: np.ndarray, score: np.ndarray, *, level: float = 0.95, kind: Kind = "score") -> Auroc:
    """Compute the area under the ROC curve with DeLong's variance and an interval.

    Where few positives or negatives are on the wrong side, DeLong's variance is often much too small: with 30 positives
    among 330 samples and an area of 0.99 its intervals hold the truth in 73 to 89 % of samples instead of 95. The
    ``score`` interval is Newcombe's with its variance in the proportion that DeLong's has to Hanley and McNeil's; a
    proportion below 1 counts the less, the fewer samples are on the wrong side.

    Args:
        y: ``(n,)`` truth, 1 positive, else negative.
        score: ``(n,)`` higher for positive.
        level: of confidence.
        kind: of interval: ``score``, or ``wald``, cut to 0..1, as pROC gives.
    """
    method = _METHODS[kind]
    if reason := obstacle(y, score):
        return Auroc(math.nan, math.nan, math.nan, math.nan, method, reason)
    of_positives, of_negatives = placements(y, score)
    value = float(of_positives.mean())
    variance = _variance(of_positives) / len(of_positives) + _variance(of_negatives) / len(of_negatives)
    interval = _interval(value, variance, len(of_positives), len(of_negatives), level, kind)
    return Auroc(value, variance, *interval)


def auroc_covariance(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the areas ``(r,)`` of ``r`` models on the same samples, ``scores (r, n)``, and their covariance.

    The covariance is ``(r, r)``. NaN where a class is absent; the covariance also needs two samples of each class.
    """
    models = len(scores)
    if any(obstacle(y, score) for score in scores):
        return np.full(models, np.nan), np.full((models, models), np.nan)
    pairs = [placements(y, score) for score in scores]
    of_positives, of_negatives = (np.stack(side) for side in zip(*pairs, strict=True))  # (r, m), (r, n - m)
    if min(of_positives.shape[1], of_negatives.shape[1]) < 2:
        return of_positives.mean(1), np.full((models, models), np.nan)
    covariance = np.cov(of_positives) / of_positives.shape[1] + np.cov(of_negatives) / of_negatives.shape[1]
    return of_positives.mean(1), covariance.reshape(models, models)


def paired_difference(y: np.ndarray, a: np.ndarray, b: np.ndarray, *, level: float = 0.95) -> PairedAuroc:
    """Test the difference of two areas on the same samples by DeLong, with a Wald interval."""
    nan = math.nan
    if reason := obstacle(y, a) or obstacle(y, b):
        return PairedAuroc(nan, nan, nan, nan, nan, nan, nan, nan, reason)
    (a_positives, a_negatives), (b_positives, b_negatives) = placements(y, a), placements(y, b)
    area_a, area_b = float(a_positives.mean()), float(b_positives.mean())
    difference = area_a - area_b
    # Differences of placements, not Var + Var - 2 Cov: exactly 0 for models that rank alike.
    by_positive, by_negative = a_positives - b_positives, a_negatives - b_negatives
    error = math.sqrt(_variance(by_positive) / len(by_positive) + _variance(by_negative) / len(by_negative))
    if math.isnan(error):
        return PairedAuroc(area_a, area_b, difference, nan, nan, nan, nan, nan, _TOO_FEW)
    if error == 0:
        if np.array_equal(rankdata(a), rankdata(b)):
            return PairedAuroc(area_a, area_b, 0.0, 0.0, 0.0, 0.0, nan, 1.0, "both rank all samples alike")
        reason = "the difference has no spread in this sample, as when both areas are 1"
        return PairedAuroc(area_a, area_b, difference, 0.0, nan, nan, nan, nan, reason)
    z = difference / error
    half = ndtri((1 + level) / 2) * error
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    few = min(len(by_positive), len(by_negative)) * min(area_a, 1 - area_a, area_b, 1 - area_b) < FEW
    return PairedAuroc(area_a, area_b, difference, error, low, high, z, 2 * float(ndtr(-abs(z))), few=few)


_METHODS = {"score": "DeLong, score interval", "wald": "DeLong, Wald interval"}
_TOO_FEW = "an interval needs two samples of each class"


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else math.nan


def _interval(value: float, variance: float, positives: int, negatives: int, level: float, kind: Kind) -> Interval:
    if math.isnan(variance):
        return no_interval(_METHODS[kind], _TOO_FEW)
    if value in (0, 1):
        return newcombe(value, positives, negatives, level)
    if variance == 0:
        return no_interval(_METHODS[kind], "all scores are equal")
    if kind == "wald":
        half = ndtri((1 + level) / 2) * math.sqrt(variance)
        return Interval(max(0.0, value - half), min(1.0, value + half), _METHODS[kind])
    found = newcombe(value, positives, negatives, level, _proportion(value, variance, positives, negatives))
    return found._replace(method=_METHODS[kind])


def _proportion(value: float, variance: float, positives: int, negatives: int) -> float:
    """Return DeLong's variance over Hanley and McNeil's, near 1 at least where few samples are on the wrong side."""
    found = variance / hanley_mcneil(value, positives, negatives)
    wrong = min(positives, negatives) * min(value, 1 - value)
    return max(found, found + (1 - found) / (1 + wrong / FEW))
