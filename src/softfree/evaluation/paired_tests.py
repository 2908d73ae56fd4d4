"""Several comparisons at once, and the comparison of two models over the folds of a cross-validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from softfree.evaluation.intervals import ROUNDING

LEVEL = 0.95


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979).

    Rejecting all that are below 0.05 keeps the chance of any false rejection below 5 %. A NaN stays NaN, and does not
    count.
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p), np.nan)
    order = [number for number in np.argsort(p, kind="stable") if not math.isnan(p[number])]
    largest = 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[number]))
        corrected[number] = largest
    return corrected.tolist()


@dataclass(frozen=True)
class FoldTest:
    """The corrected resampled t test of a difference over folds.

    Attributes:
        differences: Of each fold.
        mean: Their mean.
        low: Lower bound of its 95 % interval; NaN without a spread, or with fewer than two folds.
        high: Upper bound.
        p: Two-sided p value, NaN likewise.
        ratio: Mean number of held-out samples divided by the mean number of training samples.
    """

    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    p: float
    ratio: float


def corrected_resampled_t(differences: Sequence[float], held_out: float, training: float) -> FoldTest:
    """Test whether the mean difference over folds is 0, allowing for their shared training samples.

    The variance of the mean is that of the folds times ``1 / J + n_test / n_train`` instead of ``1 / J`` (Nadeau and
    Bengio, Inference for the generalization error, Machine Learning 52, 2003), with ``J - 1`` degrees of freedom. With
    few folds it has little power.

    Args:
        differences: Of the J folds; of all draws of the folds if there are several.
        held_out: Mean number of held-out samples of a fold.
        training: Mean number of training samples of a fold.
    """
    values, ratio = np.asarray(differences, dtype=float), held_out / training
    mean, folds = float(values.mean()), len(values)
    spread = float(values.std(ddof=1)) if folds > 1 else 0.0
    if spread < ROUNDING:
        return FoldTest(tuple(values.tolist()), mean, math.nan, math.nan, math.nan, ratio)
    error = spread * math.sqrt(1 / folds + ratio)
    half = float(student.ppf((1 + LEVEL) / 2, folds - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, folds - 1))
    return FoldTest(tuple(values.tolist()), mean, mean - half, mean + half, p, ratio)
