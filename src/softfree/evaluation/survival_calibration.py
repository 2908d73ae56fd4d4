"""Calibration of survival on samples that a model was not trained on: the spread of its outputs, and their level.

The outputs of a network may be too extreme for new samples, because it knows its own too well, or all too high or low,
because its training images were augmented and new ones are not. As for probabilities of classes, two numbers correct
that: the calibration slope and intercept (Cox, Biometrika 45, 1958), here of the logits of the hazards. A Cox model has
the slope only; its level is that of the baseline.

Both are the most probable values under a normal prior around no change, so that a handful of events changes little;
with many events the prior has no weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from softfree.data.follow_up import EVENT, TIME

SLOPES = (0.05, 20.0)
LEVELS = (-10.0, 10.0)
PRIOR = 1.0  # standard deviation of the logarithm of the slope, and of the level


def interval_outcomes(targets: np.ndarray, cuts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return which intervals of samples have the event, and which are known to be reached, boolean ``(n, J)``.

    As in training: an interval includes its end; a censored sample has survived each interval whose middle it reached;
    events after the last cut count as censored there.

    Args:
        targets: ``(n, 2)`` times and events.
        cuts: ``(J,)`` ends of the intervals.
    """
    ends, times = np.asarray(cuts, dtype=np.float64), targets[:, TIME, None]
    middles = (ends + np.concatenate([[0.0], ends[:-1]])) / 2
    own, number = np.searchsorted(ends, times), np.arange(len(ends))
    events = targets[:, EVENT, None] == 1
    here = events & (number == own)
    return here, here | np.where(events, number < own, middles <= times)


def fit_hazards(logits: np.ndarray, targets: np.ndarray, cuts: Sequence[float]) -> tuple[float, float]:
    """Find slope and level so that hazards with the logits ``slope * logits + level`` fit the samples best.

    Args:
        logits: ``(n, J)`` outputs of the model; rows that are not finite are left out.
        targets: ``(n, 2)`` times and events.
        cuts: ``(J,)`` ends of the intervals.

    Returns:
        A slope in 0.05..20 and a level in -10..10; 1 and 0 without an event.
    """
    finite = np.isfinite(logits).all(axis=1)
    here, reached = interval_outcomes(targets[finite], cuts)
    z, y = logits[finite][reached].astype(np.float64), here[reached].astype(np.float64)
    if not y.any():
        return 1.0, 0.0

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope = math.exp(parameters[0])
        calibrated = slope * z + parameters[1]
        wrong = expit(calibrated) - y
        prior = (parameters**2).sum() / (2 * PRIOR**2)
        gradient = np.array([(wrong * z).sum() * slope, wrong.sum()]) + parameters / PRIOR**2
        return float(np.logaddexp(0, calibrated).sum() - (y * calibrated).sum() + prior), gradient

    bounds = [(math.log(SLOPES[0]), math.log(SLOPES[1])), LEVELS]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12})
    return math.exp(float(found.x[0])), float(found.x[1])


def fit_cox_slope(log_hazards: np.ndarray, targets: np.ndarray) -> float:
    """Find the slope so that ``slope * log_hazards`` has the largest Cox partial likelihood, with Breslow's ties.

    Args:
        log_hazards: ``(n,)`` outputs of the model; those that are not finite are left out.
        targets: ``(n, 2)`` times and events.

    Returns:
        A number in 0.05..20; 1 without an event.
    """
    finite = np.isfinite(log_hazards)
    order = np.argsort(-targets[finite, TIME], kind="stable")
    outputs, targets = log_hazards[finite][order].astype(np.float64), targets[finite][order]
    events = targets[:, EVENT] == 1
    if not events.any():
        return 1.0
    last_at_risk = np.searchsorted(-targets[:, TIME], -targets[events, TIME], side="right") - 1

    def loss(log_slope: float) -> float:
        scaled = math.exp(log_slope) * outputs
        at_risk = np.logaddexp.accumulate(scaled)[last_at_risk]
        return float((at_risk - scaled[events]).sum() + log_slope**2 / (2 * PRIOR**2))

    low, high = (math.log(slope) for slope in SLOPES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))
