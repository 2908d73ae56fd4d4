"""Intervals for proportions, for an AUROC at its edge, and from resamples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from scipy.stats import t as student

MAX_LEFT_OUT = 0.1
"""If a larger share of the resamples lacks a class, no interval is given. A class with ``k`` patients is missing from
about ``exp(-k)`` of the resamples, so this takes three patients of each class."""
MAX_LEFT_OUT_OF_MEAN = 0.5
"""The same for a mean over classes, each of which follows the rule above."""

MIN_PATIENTS = 10
"""With fewer patients (of the smaller class, if both count), no bootstrap interval is reliable."""

ROUNDING = 1e-9
"""Sums in another order differ by less than this."""


class Interval(NamedTuple):
    """A confidence interval, or why there is none."""

    low: float
    high: float
    method: str
    reason: str | None = None


def no_interval(method: str, reason: str) -> Interval:
    """Say why no interval can be given."""
    return Interval(math.nan, math.nan, method, reason)


def wilson(successes: int, trials: int, level: float) -> Interval:
    """Compute Wilson's score interval for a proportion of independent trials (Wilson, JASA 22, 1927)."""
    if trials == 0:
        return no_interval("Wilson", "no samples")
    interval = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(interval.low, interval.high, "Wilson")


def hanley_mcneil(area: float, positives: int, negatives: int) -> float:
    """Compute the variance of an AUROC of exponential scores, with both group sizes replaced by their mean.

    Hanley and McNeil, Radiology 143 (1982), as in Newcombe's method 5.
    """
    others = (positives + negatives) / 2 - 1
    return area * (1 - area) * (1 + others * ((1 - area) / (2 - area) + area / (1 + area))) / (positives * negatives)


def newcombe(value: float, positives: int, negatives: int, level: float, times: float = 1.0) -> Interval:
    """Compute the score interval of an AUROC, whose width is not zero even at exactly 0 or 1.

    Newcombe's method 5: the bounds are the areas ``t`` with ``|value - t| = z sqrt(V(t))``, where ``V`` is
    :func:`hanley_mcneil` (Statistics in Medicine 25:559-573, 2006), here times a factor. On the need for a
    correction at the edge see Pohar Perme and Manevski, Statistical Methods in Medical Research 28, 2019.
    """
    z = ndtri((1 + level) / 2)

    def excess(t: float) -> float:
        return (value - t) ** 2 - z * z * times * hanley_mcneil(t, positives, negatives)

    def bound(edge: float) -> float:
        # At 0 and 1 themselves both terms vanish.
        inside = min(max(value, ROUNDING), 1 - ROUNDING)
        if value == edge or excess(inside) >= 0:
            return value
        return float(brentq(excess, *sorted((edge, inside)), xtol=ROUNDING))

    low, high = bound(0.0), bound(1.0)
    return Interval(low, high, "Newcombe's method 5")


def expanded(level: float, patients: int) -> float:
    """Return how many standard deviations the interval of a bootstrap extends to either side, given the patients.

    The spread of a bootstrap over n patients is too small by sqrt((n - 1) / n), and it ignores Student's t (Hesterberg,
    What teachers should know about the bootstrap, American Statistician 69, 2015, section 3.2).
    """
    return math.sqrt(patients / (patients - 1)) * float(student.ppf((1 + level) / 2, patients - 1))


def bias_corrected(
    value: float,
    draws: np.ndarray,
    level: float,
    method: str,
    max_left_out: float = MAX_LEFT_OUT,
    patients: int | None = None,
) -> Interval:
    """Compute the bias-corrected percentile interval of a bootstrap, expanded for few patients.

    The correction matters for statistics whose resamples fall to one side of the value, such as average precision
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3). Resamples that lack a class (NaN)
    are left out and counted in the method. With ``patients``, the number of independent ones, the interval is expanded
    by :func:`expanded`, and there is none below :data:`MIN_PATIENTS`; None does not expand it.
    """
    if patients is not None and patients < MIN_PATIENTS:
        reason = f"too few patients: {patients} (in all, or of the smaller class); {MIN_PATIENTS} are needed"
        return no_interval(method, reason)
    kept = draws[~np.isnan(draws)]
    left_out = len(draws) - len(kept)
    if left_out:
        method += f", {left_out} without a class left out"
    if left_out > max_left_out * len(draws):
        return no_interval(method, f"too few patients of a class: {left_out} of {len(draws)} resamples lacked it")
    if np.ptp(kept) < ROUNDING:
        return no_interval(method, "every resample gave the same value")
    z = ndtri((1 + level) / 2) if patients is None else expanded(level, patients)
    shift = 2 * _normal_position(value, kept)
    low, high = np.quantile(kept, ndtr([shift - z, shift + z]))
    return Interval(float(low), float(high), method)


def bootstrap_p(value: float, draws: np.ndarray, patients: int | None = None) -> float:
    """Compute the two-sided p value of 0: 1 minus the level at which 0 is a bound of :func:`bias_corrected`.

    It cannot be smaller than the resamples can show: about 0.001 with 2,000 of them.
    """
    kept = draws[~np.isnan(draws)]
    if math.isnan(value) or np.ptp(kept) < ROUNDING:
        return math.nan
    z = abs(_normal_position(0.0, kept) - 2 * _normal_position(value, kept))
    if patients is None:
        return 2 * float(ndtr(-z))
    return 2 * float(student.sf(z * math.sqrt((patients - 1) / patients), patients - 1))


def _normal_position(value: float, draws: np.ndarray) -> float:
    """Return the normal quantile of the share of draws below a value, where equal ones count one half."""
    below = np.mean(draws < value - ROUNDING) + np.mean(np.abs(draws - value) <= ROUNDING) / 2
    finest = 1 / (2 * len(draws))
    return float(ndtri(np.clip(below, finest, 1 - finest)))
