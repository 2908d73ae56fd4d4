"""The quantities that are measured for predicted numbers, with their values and their statistics over resamples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from softfree.evaluation import vectorized_metrics as weighted
from softfree.evaluation.bootstrap import Statistic
from softfree.evaluation.intervals import ROUNDING
from softfree.evaluation.metric_specs import Quantity
from softfree.evaluation.scores import missing_reason
from softfree.evaluation.values import Values

Moments = Callable[[np.ndarray], tuple[np.ndarray, ...]]
AGREEMENT = 1.959963984540054
"""Standard deviations from the mean difference to the limits of agreement, between which 95 % lie if it is normal."""


def value_quantities(values: Values) -> dict[str, Quantity]:
    """List all quantities of a regression by name, in the unit of the target where they have one.

    ``mae`` and ``rmse``; ``r2``, the share of the variance of these truths that is explained (negative if their mean
    would be a better prediction); ``bias``, the mean of prediction minus truth, with the limits of agreement
    ``agreement_low`` and ``agreement_high`` (Bland and Altman, Lancet 327, 1986); ``slope`` and ``intercept`` of the
    truth as a linear function of the prediction, 1 and 0 if it is calibrated; and ``interval_coverage``, the share of
    samples whose prediction interval contains the truth, if they have intervals.
    """
    everyone, reason = np.ones(len(values), dtype=bool), missing_reason(values.predicted)
    error, flat = values.predicted - values.targets, "all predictions are equal"
    statistics: dict[str, tuple[Statistic, str, str]] = {
        "mae": (weighted.mean(np.abs(error)), "", ""),
        "rmse": (_root(weighted.mean(error**2)), "", ""),
        "r2": (r2(values.targets, values.predicted), "", "all truths are equal"),
        "bias": (weighted.mean(error), "prediction minus truth", ""),
        "agreement_low": (agreement(error, -AGREEMENT), "limit of agreement, bias - 1.96 standard deviations", ""),
        "agreement_high": (agreement(error, AGREEMENT), "limit of agreement, bias + 1.96 standard deviations", ""),
        "slope": (slope(values.targets, values.predicted), "of truth on prediction", flat),
        "intercept": (
            intercept(values.targets, values.predicted),
            "of truth on prediction",
            "all predictions are equal",
        ),
    }
    found = {}
    for name, (statistic, note, undefined) in statistics.items():
        value = math.nan if reason else float(statistic(np.ones((1, len(values))))[0])
        missing = reason or (undefined or "no samples" if math.isnan(value) else None)
        found[name] = Quantity(value, "other", everyone, statistic=statistic, note=note, reason=missing)
    if values.half_widths is not None and not np.isnan(values.half_widths).all():
        rows = ~np.isnan(values.half_widths)
        inside = np.where(rows, np.abs(error) <= values.half_widths, np.nan)
        value = math.nan if reason else float(np.nanmean(inside))
        found["interval_coverage"] = Quantity(
            value,
            "proportion",
            rows,
            statistic=weighted.mean(inside),
            note="of the prediction intervals",
            reason=reason,
        )
    return found


def r2(truth: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Compute ``1 - sum (p - t)^2 / sum (t - mean t)^2``."""
    moments, error = _moments(truth, predicted), (predicted - truth) ** 2

    def statistic(weights: np.ndarray) -> np.ndarray:
        total, _, _, spread, _, _ = moments(weights)
        return 1 - _ratio(weights @ error / total, spread, float(truth.var()))

    return statistic


def slope(truth: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Compute the slope of the least-squares line of truth on prediction."""
    moments = _moments(truth, predicted)

    def statistic(weights: np.ndarray) -> np.ndarray:
        _, _, _, _, spread, together = moments(weights)
        return _ratio(together, spread, float(predicted.var()))

    return statistic


def intercept(truth: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Compute the intercept of the least-squares line of truth on prediction."""
    moments, gradient = _moments(truth, predicted), slope(truth, predicted)

    def statistic(weights: np.ndarray) -> np.ndarray:
        _, true, called, _, _, _ = moments(weights)
        return true - gradient(weights) * called

    return statistic


def agreement(error: np.ndarray, deviations: float) -> Statistic:
    """Compute the mean of the errors plus a number of their standard deviations (with n - 1)."""
    mean, square = weighted.mean(error), weighted.mean((error - error.mean()) ** 2) if len(error) else None

    def statistic(weights: np.ndarray) -> np.ndarray:
        middle, count = mean(weights), weights.sum(axis=1)
        assert square is not None
        spread = square(weights) - (middle - error.mean()) ** 2
        unbiased = np.divide(count, count - 1, out=np.full(len(count), np.nan), where=count > 1)
        return middle + deviations * np.sqrt(np.maximum(spread, 0) * unbiased)

    return statistic


def _root(statistic: Statistic) -> Statistic:
    return lambda weights: np.sqrt(statistic(weights))


def _moments(truth: np.ndarray, predicted: np.ndarray) -> Moments:
    """Return total weight, means of truth and prediction, their variances, and their covariance, each ``(b,)``.

    Computed around the means of all samples, so that large offsets do not cost digits.
    """
    origins = (float(truth.mean()), float(predicted.mean())) if len(truth) else (0.0, 0.0)
    t, p = truth - origins[0], predicted - origins[1]

    def moments(weights: np.ndarray) -> tuple[np.ndarray, ...]:
        total = weights.sum(axis=1)
        t1, p1, t2, p2, tp = (weights @ part / total for part in (t, p, t**2, p**2, t * p))
        return total, t1 + origins[0], p1 + origins[1], t2 - t1**2, p2 - p1**2, tp - t1 * p1

    return moments


def _ratio(above: np.ndarray, variance: np.ndarray, of_all: float) -> np.ndarray:
    """Divide by variances, NaN where one is zero but for rounding, compared with that of all samples."""
    return np.divide(above, variance, out=np.full(len(above), np.nan), where=variance > ROUNDING * of_all)
