"""The area under the ROC curve, its variance and the paired comparison of two, by DeLong.

E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44:837-845 (1988), with the midranks of X. Sun and W. Xu, IEEE
Signal Processing Letters 21:1389-1393 (2014): O(n log n) time and O(n) memory. The tests compare it with R's pROC.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from softfree.evaluation.intervals import ROUNDING, Interval, hanley_mcneil, newcombe, no_interval
from softfree.evaluation.scores import undefined_reason

Kind = Literal["score", "wald"]
FEW = 5.0
"""Up to this many misranked samples of the smaller class, DeLong's variance is trusted only if it is large."""


@dataclass(frozen=True)
class Auroc:
    """An area under the ROC curve with DeLong's variance; ``reason`` explains a NaN."""

    value: float
    variance: float
    low: float
    high: float
    method: str
    reason: str | None = None


@dataclass(frozen=True)
class PairedAuroc:
    """Two areas on the same samples and their difference ``a - b``.

    ``p`` is two-sided, and below ``1 - level`` exactly if the interval excludes 0; ``z`` is DeLong's.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    z: float
    p: float
    reason: str | None = None


def placements(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute, for each sample, the share of the other class that it is ranked correctly against; ties count one half.

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

    With few misranked samples of a class, DeLong's variance is often much too small, and Wald intervals miss the truth
    several times too often. The ``score`` interval is Newcombe's, with its variance scaled by the ratio of DeLong's
    variance to Hanley and McNeil's; a ratio below 1 counts less the fewer samples are misranked. Its coverage is
    measured by ``softfree-lab study coverage``.

    Args:
        y: ``(n,)`` truth, 1 positive, else negative.
        score: ``(n,)`` higher for positive.
        level: Confidence level.
        kind: Kind of interval: ``score``, or ``wald`` clipped to 0..1, as in pROC.
    """
    method = _METHODS[kind]
    if reason := undefined_reason(y, score):
        return Auroc(math.nan, math.nan, math.nan, math.nan, method, reason)
    of_positives, of_negatives = placements(y, score)
    value = float(of_positives.mean())
    variance = _of_mean(of_positives, of_negatives)
    interval = _interval(value, variance, len(of_positives), len(of_negatives), level, kind)
    return Auroc(value, variance, *interval)


def paired_difference(
    y: np.ndarray, a: np.ndarray, b: np.ndarray, *, level: float = 0.95, kind: Kind = "score"
) -> PairedAuroc:
    """Compare two areas on the same samples by DeLong.

    Args:
        y: ``(n,)`` truth, 1 positive, else negative.
        a: ``(n,)`` scores of one model.
        b: ``(n,)`` scores of the other.
        level: Confidence level.
        kind: Kind of interval: ``wald`` is DeLong's own, which misses the truth too often with few misranked samples.
            ``score`` adds the excess of each area's score interval over DeLong's, scaled by 1 minus the correlation of
            the two areas.
    """
    nan = math.nan
    if reason := undefined_reason(y, a) or undefined_reason(y, b):
        return PairedAuroc(nan, nan, nan, nan, nan, nan, nan, reason)
    (a_positives, a_negatives), (b_positives, b_negatives) = placements(y, a), placements(y, b)
    area_a, area_b = float(a_positives.mean()), float(b_positives.mean())
    difference, sizes = area_a - area_b, (len(a_positives), len(a_negatives))
    # Differences of placements, not Var + Var - 2 Cov: exactly 0 for models that rank alike.
    variance = _of_mean(a_positives - b_positives, a_negatives - b_negatives)
    if math.isnan(variance):
        return PairedAuroc(area_a, area_b, difference, nan, nan, nan, nan, _TOO_FEW)
    if variance == 0 and np.array_equal(rankdata(a), rankdata(b)):
        return PairedAuroc(area_a, area_b, 0.0, 0.0, 0.0, nan, 1.0, "both rank all samples alike")
    if variance == 0 and kind == "wald":
        reason = "the difference has no spread in this sample, as when both areas are 1"
        return PairedAuroc(area_a, area_b, difference, nan, nan, nan, nan, reason)
    own_variances = _of_mean(a_positives, a_negatives), _of_mean(b_positives, b_negatives)
    uncorrelated = 1 - _correlation(variance, *own_variances) if kind == "score" else 0.0

    def bounds(level: float) -> tuple[float, float]:
        z = float(ndtri((1 + level) / 2))
        halves = [z * z * variance] * 2
        if uncorrelated:
            (a_down, a_up), (b_down, b_up) = (
                _wider(area, own, *sizes, level) for area, own in zip((area_a, area_b), own_variances, strict=True)
            )
            halves = [halves[0] + uncorrelated * (a_down + b_up), halves[1] + uncorrelated * (a_up + b_down)]
        return max(-1.0, difference - math.sqrt(halves[0])), min(1.0, difference + math.sqrt(halves[1]))

    error = math.sqrt(variance)
    z = difference / error if error else math.copysign(math.inf, difference)
    p = _p_value(difference, bounds) if kind == "score" else 2 * float(ndtr(-abs(z)))
    return PairedAuroc(area_a, area_b, difference, *bounds(level), z, p)


def _of_mean(of_positives: np.ndarray, of_negatives: np.ndarray) -> float:
    """Return the variance of an area, or of a difference, from its placements."""
    return _variance(of_positives) / len(of_positives) + _variance(of_negatives) / len(of_negatives)


def _correlation(of_difference: float, of_a: float, of_b: float) -> float:
    """Return the correlation of two areas; 0 if one of them has no spread."""
    both = math.sqrt(of_a * of_b)
    return min(1.0, (of_a + of_b - of_difference) / 2 / both) if both else 0.0


def _wider(area: float, variance: float, positives: int, negatives: int, level: float) -> tuple[float, float]:
    """Return how much the squared lower and upper half-widths of the score interval exceed DeLong's."""
    z = float(ndtri((1 + level) / 2))
    times = 1.0 if area in (0, 1) else _ratio(area, variance, positives, negatives)
    interval = newcombe(area, positives, negatives, level, times)
    return tuple(max(0.0, (bound - area) ** 2 - z * z * variance) for bound in interval[:2])  # type: ignore[return-value]


def _p_value(difference: float, bounds: Callable[[float], tuple[float, float]]) -> float:
    """Return 1 minus the confidence level at which 0 becomes a bound of the interval."""
    if abs(difference) < ROUNDING:
        return 1.0
    side, surest = int(difference < 0), 1 - 1e-12
    if bounds(surest)[side] * difference > 0:
        return 1e-12
    return 1 - float(brentq(lambda level: bounds(level)[side] * math.copysign(1, difference), 1e-12, surest))


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
    interval = newcombe(value, positives, negatives, level, _ratio(value, variance, positives, negatives))
    return interval._replace(method=_METHODS[kind])


def _ratio(value: float, variance: float, positives: int, negatives: int) -> float:
    """Return DeLong's variance over Hanley and McNeil's; with few misranked samples, at least nearly 1."""
    ratio = variance / hanley_mcneil(value, positives, negatives)
    wrong = min(positives, negatives) * min(value, 1 - value)
    return max(ratio, ratio + (1 - ratio) / (1 + wrong / FEW))
