"""Means over readers, with intervals that hold for other readers and other cases like those of the study.

The model of Obuchowski and Rockette (Communications in Statistics - Simulation and Computation 24, 1995) with the
degrees of freedom of Hillis (Statistics in Medicine 26:596, 2007): readers are a sample of readers, and their numbers
are correlated because they read the same cases. A difference between two conditions is the difference of each reader,
which gives the same standard error and degrees of freedom as their formulas for two conditions.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from softfree.evaluation.intervals import MAX_LEFT_OUT, MIN_PATIENTS, Interval, no_interval

METHOD = "Obuchowski-Rockette, readers and cases"


def over_readers(values: np.ndarray, covariance: np.ndarray, level: float = 0.95) -> Interval:
    """Compute the interval of a mean over readers.

    The squared standard error is ``(S² + r max(c, 0)) / r``, where ``S²`` is the variance of the values and ``c`` the
    mean covariance of two readers; the degrees of freedom are ``(r - 1) (1 + r max(c, 0) / S²)²``.

    Args:
        values: ``(r,)`` number of each reader, or each reader's difference between two conditions.
        covariance: ``(r, r)`` of their errors from the choice of cases, such as from a bootstrap over patients.
        level: Of confidence.
    """
    count = len(values)
    if count < 2:
        return no_interval(METHOD, "one reader alone says nothing about others")
    spread = float(np.var(values, ddof=1))
    between = float((covariance.sum() - np.trace(covariance)) / (count * (count - 1)))
    shared = count * max(between, 0.0)
    if spread + shared <= 0:
        return no_interval(METHOD, "all readers and all resamples gave the same value")
    freedom = (count - 1) * ((spread + shared) / spread) ** 2 if spread > 0 else math.inf
    half = float(student.ppf((1 + level) / 2, freedom)) * math.sqrt((spread + shared) / count)
    middle = float(np.mean(values))
    return Interval(middle - half, middle + half, METHOD)


def from_draws(values: np.ndarray, draws: np.ndarray, patients: int, left_out: float = MAX_LEFT_OUT) -> Interval:
    """Compute the interval of a mean over readers from resamples of the cases, the same for all readers.

    The covariances are those of the resamples, times ``n / (n - 1)``, because the spread of a bootstrap over n patients
    is too small by that.

    Args:
        values: ``(r,)`` number of each reader.
        draws: ``(r, b)`` the same over the resamples; NaN where one lacks a class.
        patients: Number of independent patients (of the smaller class, if both count).
        left_out: Share of the resamples that may lack a class.
    """
    if patients < MIN_PATIENTS:
        reason = f"too few patients: {patients} (in all, or of the smaller class); {MIN_PATIENTS} are needed"
        return no_interval(METHOD, reason)
    kept = draws[:, np.isfinite(draws).all(axis=0)]
    missing = draws.shape[1] - kept.shape[1]
    if missing > left_out * draws.shape[1]:
        return no_interval(METHOD, f"too few patients of a class: {missing} of {draws.shape[1]} resamples lacked it")
    return (
        over_readers(values, np.cov(kept) * patients / (patients - 1))
        if len(values) > 1
        else over_readers(values, np.zeros((1, 1)))
    )
