"""Statistics of many resamples at once, as functions of how often each sample was drawn.

Each function computes the constant parts once (the order of the scores, the bins) and returns a
:data:`~softfree.evaluation.bootstrap.Statistic`. With all weights 1, the values are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from softfree.evaluation.bootstrap import Statistic

MAX_BINS, SAMPLES_A_BIN = 10, 10


def bins_for(n: int) -> int:
    """Choose the number of bins of a reliability curve: tenths, or fewer so that each has at least 10 samples."""
    return min(MAX_BINS, max(1, n // SAMPLES_A_BIN))


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


def f1(truth: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Compute ``2 TP / (2 TP + FP + FN)`` of boolean truths and predictions."""
    hits, sizes = truth & predicted, truth.astype(np.float64) + predicted
    return lambda weights: _ratio(2 * (weights @ hits), weights @ sizes)


def kappa(truth: np.ndarray, predicted: np.ndarray, classes: int, *, quadratic: bool = False) -> Statistic:
    """Compute Cohen's kappa, ``1 - observed / expected`` disagreement (Psychological Bulletin 70, 1968).

    Args:
        truth: Class numbers ``(n,)``.
        predicted: Class numbers ``(n,)``.
        classes: Number of classes.
        quadratic: Weight a disagreement by the square of the distance of the class numbers, for grades; else all
            disagreements are equal.
    """
    distance = (truth - predicted) ** 2 if quadratic else truth != predicted
    marginals, grades = _marginals(truth, predicted, classes), np.arange(classes)

    def statistic(weights: np.ndarray) -> np.ndarray:
        true, called = marginals(weights)  # (b, K)
        total = weights.sum(1)
        expected = total**2 - (true * called).sum(1)
        if quadratic:  # E (T - P)^2 of independent T and P
            squares = ((true + called) @ grades**2) * total
            expected = squares - 2 * (true @ grades) * (called @ grades)
        return 1 - _ratio((weights @ distance) * total, expected)

    return statistic


def matthews(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Statistic:
    """Compute Matthews' correlation of class numbers, for any number of classes (Gorodkin, 2004, equation 8)."""
    hits, marginals = truth == predicted, _marginals(truth, predicted, classes)

    def statistic(weights: np.ndarray) -> np.ndarray:
        true, called = marginals(weights)
        total = weights.sum(1)
        covariance = (weights @ hits) * total - (true * called).sum(1)
        spread = (total**2 - (true**2).sum(1)) * (total**2 - (called**2).sum(1))
        return _ratio(covariance, np.sqrt(spread))

    return statistic


def predictive_value(truth: np.ndarray, predicted: np.ndarray, prevalence: float, *, positive: bool) -> Statistic:
    """Compute the predictive value at another prevalence, by Bayes' rule from sensitivity and specificity.

    Args:
        truth: Boolean ``(n,)``.
        predicted: Boolean ``(n,)``.
        prevalence: Share of positives where the model is to be used.
        positive: Compute the positive predictive value, or the negative one.
    """
    sensitivity = mean(np.where(truth, predicted, np.nan))
    specificity = mean(np.where(truth, np.nan, ~predicted))

    def statistic(weights: np.ndarray) -> np.ndarray:
        found, spared = sensitivity(weights), specificity(weights)
        if positive:
            right, wrong = found * prevalence, (1 - spared) * (1 - prevalence)
        else:
            right, wrong = spared * (1 - prevalence), (1 - found) * prevalence
        return _ratio(right, right + wrong)

    return statistic


def on(rows: np.ndarray, statistic: Statistic) -> Statistic:
    """Restrict a statistic to some of the samples; ``rows`` is boolean ``(n,)``."""
    return statistic if rows.all() else lambda weights: statistic(weights[:, rows])


def equal_mass_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin number of each probability; bins have equal numbers of samples, but equal values share a bin."""
    return ((rankdata(p) - 0.5) * bins_for(len(p)) // max(len(p), 1)).astype(np.int64)


def _marginals(
    truth: np.ndarray, predicted: np.ndarray, classes: int
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Count true and predicted classes over resamples, each ``(b, K)``."""
    rows, ones = np.arange(len(truth)), np.ones(len(truth))
    true, called = (csr_array((ones, (rows, of)), shape=(len(rows), classes)) for of in (truth, predicted))
    return lambda weights: (weights @ true, weights @ called)


def _tie_ends(ordered: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.append(np.diff(ordered) != 0, True))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
