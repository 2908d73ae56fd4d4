"""Statistics of many resamples at once, as functions of how often each sample was drawn.

Each function computes the constant parts once (the order of the scores, the bins) and returns a
:data:`~softfree.evaluation.bootstrap.Statistic`. With all weights 1, the values are scikit-learn's.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from softfree.evaluation.bootstrap import Statistic

MOST_BINS, SAMPLES_A_BIN = 10, 10


def bins_for(n: int) -> int:
    """Choose the number of bins of a reliability curve: tenths, or fewer so that each has at least 10 samples."""
    return min(MOST_BINS, max(1, n // SAMPLES_A_BIN))


def auroc(y: np.ndarray, score: np.ndarray) -> Statistic:
    """Compute the area under the ROC curve, with ties counting one half."""
    order = np.argsort(score, kind="stable")
    ends, positive = _tie_ends(score[order]), y[order] == 1

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order]
        positives = np.cumsum(drawn * positive, axis=1)[:, ends]  # (b, distinct scores)
        negatives = np.cumsum(drawn * ~positive, axis=1)[:, ends]
        won = np.diff(positives, axis=1, prepend=0) * (negatives - np.diff(negatives, axis=1, prepend=0) / 2)
        return _ratio(won.sum(1), positives[:, -1] * negatives[:, -1])

    return statistic


def average_precision(y: np.ndarray, score: np.ndarray) -> Statistic:
    """Average the precision over the positives, without interpolation."""
    order = np.argsort(-score, kind="stable")
    ends, positive = _tie_ends(score[order]), y[order] == 1

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order]
        predicted = np.cumsum(drawn, axis=1)[:, ends]
        positives = np.cumsum(drawn * positive, axis=1)[:, ends]
        precision = np.divide(positives, predicted, out=np.zeros_like(predicted), where=predicted > 0)
        return _ratio((np.diff(positives, axis=1, prepend=0) * precision).sum(1), positives[:, -1])

    return statistic


def mean(values: np.ndarray) -> Statistic:
    """Average one value per sample; samples with NaN are ignored."""
    counts = ~np.isnan(values)
    filled = np.where(counts, values, 0.0)
    return lambda weights: _ratio(weights @ filled, weights @ counts.astype(np.float64))


def calibration_error(y: np.ndarray, p: np.ndarray) -> Statistic:
    """Compute the expected calibration error: ``|observed share - mean probability|`` averaged over bins by size."""
    surplus = (y - p)[:, None] * (equal_mass_bins(p)[:, None] == np.arange(bins_for(len(p))))  # (n, bins)
    return lambda weights: _ratio(np.abs(weights @ surplus).sum(1), weights.sum(1))


def on(rows: np.ndarray, statistic: Statistic) -> Statistic:
    """Restrict a statistic to some of the samples; ``rows`` is boolean ``(n,)``."""
    return statistic if rows.all() else lambda weights: statistic(weights[:, rows])


def equal_mass_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin number of each probability; bins have equal numbers of samples, but equal values share a bin."""
    return ((rankdata(p) - 0.5) * bins_for(len(p)) // max(len(p), 1)).astype(np.int64)


def _tie_ends(ordered: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.append(np.diff(ordered) != 0, True))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
