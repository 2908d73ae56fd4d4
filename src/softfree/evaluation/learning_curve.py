"""How a score grows with the number of training patients: an inverse power law, and how far it may be followed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import t as student

FARTHEST = 4.0
"""Largest multiple of the data to which a curve is extrapolated."""
MIN_SIZES, MIN_DRAWS = 4, 3
NUM_BOOTSTRAP = 500
SLOWEST, FASTEST, EXPONENTS = 0.05, 2.0, 150
LEVEL = 0.95


@dataclass(frozen=True)
class Point:
    """Scores of one size.

    Attributes:
        patients: Mean number of training patients.
        mean: Over the draws.
        low: Lower bound of Student's 95 % interval over the draws; NaN with one draw.
        high: Upper bound.
    """

    patients: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """``score(n) = a - b * n ** -c``; of an error, b is negative."""

    a: float
    b: float
    c: float

    def __call__(self, patients: float | np.ndarray) -> float | np.ndarray:
        """Return the score at a number of patients."""
        return self.a - self.b * patients**-self.c


@dataclass(frozen=True)
class Fitted:
    """A power law through measured scores.

    Attributes:
        law: Of the means over draws.
        laws: Of resamples of the draws; empty with fewer than three draws.
    """

    law: PowerLaw
    laws: tuple[PowerLaw, ...]

    def predict(self, patients: float) -> Point:
        """Predict the score at a number of patients, with the 95 % interval of the resamples of draws."""
        value = float(self.law(patients))
        if not self.laws:
            return Point(patients, value, math.nan, math.nan)
        low, high = np.quantile([float(law(patients)) for law in self.laws], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Point(patients, value, float(low), float(high))


def summarize(patients: np.ndarray, scores: np.ndarray, *, lowest: float = 0.0, highest: float = 1.0) -> list[Point]:
    """Return mean and interval of each size.

    Args:
        patients: ``(S,)``.
        scores: ``(D, S)``: of each draw; NaN where it has none.
        lowest: Lowest possible score.
        highest: Highest possible score.
    """
    points = []
    for number, column in zip(patients, scores.T, strict=True):
        values = column[~np.isnan(column)]
        mean = float(values.mean()) if len(values) else math.nan
        half = math.nan
        if len(values) > 1:
            half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
        low, high = np.clip([mean - half, mean + half], lowest, highest)
        points.append(Point(float(number), mean, float(low), float(high)))
    return points


def fit(patients: np.ndarray, scores: np.ndarray, *, seed: int = 0, lower: bool = False) -> Fitted | None:
    """Fit an inverse power law to the means over draws, each weighted by its standard error.

    The form is that of Figueroa et al., BMC Medical Informatics and Decision Making 12:8 (2012).

    Args:
        patients: ``(S,)`` increasing numbers of training patients.
        scores: ``(D, S)``: AUROC or another score up to 1 of each draw, or with ``lower`` an error of at least 0.
        seed: Of the resampling of draws.
        lower: The score is an error, which falls with more patients.

    Returns:
        None with fewer than four sizes or without a score.
    """
    if lower:  # 1 minus the error, in units of the largest, is a score up to 1
        unit = float(np.nanmax(scores, initial=0.0)) or 1.0
        return _as_error(fit(patients, 1 - scores / unit, seed=seed), unit)
    scores = scores[~np.isnan(scores).any(axis=1)]
    draws, sizes = scores.shape
    if sizes < MIN_SIZES or not draws:
        return None
    errors = _errors(scores)
    law = _polished(_fit(patients, scores.mean(axis=0)[None], errors)[0], patients, scores.mean(axis=0), errors)
    laws: list[PowerLaw] = []
    if draws >= MIN_DRAWS:
        chosen = np.random.default_rng(seed).integers(draws, size=(NUM_BOOTSTRAP, draws))
        laws = _fit(patients, scores[chosen].mean(axis=1), errors)
    return Fitted(law, tuple(laws))


def _as_error(fitted: Fitted | None, unit: float) -> Fitted | None:
    """Turn laws of ``1 - error / unit`` into laws of the error."""
    if fitted is None:
        return None
    law, *laws = (PowerLaw(unit * (1 - one.a), -unit * one.b, one.c) for one in (fitted.law, *fitted.laws))
    return Fitted(law, tuple(laws))


def _errors(scores: np.ndarray) -> np.ndarray:
    """Return the standard error of each size, of which none is much smaller than usual by chance."""
    if len(scores) < 2:
        return np.ones(scores.shape[1])
    errors = scores.std(axis=0, ddof=1) / math.sqrt(len(scores))
    return np.maximum(errors, max(0.25 * float(np.median(errors)), 1e-4))


def _fit(patients: np.ndarray, means: np.ndarray, errors: np.ndarray) -> list[PowerLaw]:
    """Fit a law to each row of ``means`` (B, S): the best of a grid of exponents, each with its linear least squares.

    The score stays up to 1, and does not fall with more patients.
    """
    smallest, weights = float(patients[0]), 1 / errors**2
    best: list[np.ndarray] = [np.full(len(means), np.inf), *np.zeros((3, len(means)))]
    for c in np.geomspace(SLOWEST, FASTEST, EXPONENTS):
        x = (patients / smallest) ** -c
        x_mean, y_mean = np.average(x, weights=weights), np.average(means, axis=1, weights=weights)
        drop = -((means - y_mean[:, None]) * (x - x_mean) * weights).sum(axis=1) / ((x - x_mean) ** 2 * weights).sum()
        a = y_mean + drop * x_mean
        at_one = np.clip(((1 - means) * x * weights).sum(axis=1) / (x**2 * weights).sum(), 0, None)
        drop, a = np.where(a > 1, at_one, drop), np.minimum(a, 1)
        drop, a = np.maximum(drop, 0), np.where(drop < 0, y_mean, a)
        loss = ((means - a[:, None] + drop[:, None] * x) ** 2 * weights).sum(axis=1)
        better = loss < best[0]
        best = [np.where(better, new, old) for new, old in zip((loss, a, drop, c), best, strict=True)]
    _, a, drop, c = best
    return [PowerLaw(float(a[i]), float(drop[i] * smallest ** c[i]), float(c[i])) for i in range(len(means))]


def _polished(law: PowerLaw, patients: np.ndarray, means: np.ndarray, errors: np.ndarray) -> PowerLaw:
    """Refine a law between the exponents of the grid."""
    smallest = float(patients[0])

    def score(n: np.ndarray, a: float, drop: float, c: float) -> np.ndarray:
        return a - drop * (n / smallest) ** -c

    start = (law.a, law.b * smallest**-law.c, law.c)
    try:
        (a, drop, c), _ = curve_fit(
            score, patients, means, start, errors, bounds=((0, 0, SLOWEST), (1, np.inf, FASTEST))
        )
    except (RuntimeError, ValueError):  # no better one
        return law
    return PowerLaw(float(a), float(drop * smallest**c), float(c))
