"""Kaplan-Meier curves of groups of risk, and the log-rank test between two of them, by SciPy."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import CensoredData, ecdf, logrank

from softfree.data.follow_up import EVENT, TIME


@dataclass(frozen=True)
class Curve:
    """A Kaplan-Meier curve, from 1 at time 0.

    Attributes:
        times: ``(T,)`` distinct times.
        survival: ``(T,)`` from each time on.
        low: ``(T,)`` lower bounds of 95 % intervals, by Greenwood's formula on the log-log scale; NaN where undefined.
        high: ``(T,)`` upper bounds.
        at_risk: Number of samples.
        events: Number of events.
    """

    times: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: int
    events: int


def kaplan_meier(targets: np.ndarray) -> Curve:
    """Estimate the share that is free of the event over time, of times and events ``(n, 2)``, n > 0."""
    function = ecdf(_censored(targets)).sf
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no interval at shares of 0 and 1
        bounds = function.confidence_interval(method="log-log")
    parts = (np.asarray(part.probabilities) for part in (function, bounds.low, bounds.high))
    survival, low, high = (np.concatenate([[1.0], part]) for part in parts)
    times = np.concatenate([[0.0], function.quantiles])
    return Curve(times, survival, low, high, len(targets), int(targets[:, EVENT].sum()))


def survival_at(targets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the Kaplan-Meier estimate at ``times`` ``(T,)``."""
    curve = kaplan_meier(targets)
    return curve.survival[np.searchsorted(curve.times, times, side="right") - 1]


def halves(risks: np.ndarray) -> np.ndarray:
    """Return whether each risk is above the median of them, boolean ``(n,)``."""
    return risks > np.median(risks)


def log_rank(targets: np.ndarray, high: np.ndarray) -> float:
    """Return the two-sided p value of the log-rank test between two groups; NaN if one is empty or has no event."""
    groups = [targets[high], targets[~high]]
    if any(not len(group) for group in groups) or not targets[:, EVENT].any():
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(logrank(*(_censored(group) for group in groups)).pvalue)


def _censored(targets: np.ndarray) -> CensoredData:
    return CensoredData.right_censored(targets[:, TIME], targets[:, EVENT] == 0)
