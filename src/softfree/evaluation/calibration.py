"""Calibration: temperature scaling, reliability curves, the expected calibration error, and decision thresholds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from softfree.evaluation import bootstrap
from softfree.evaluation import vectorized_metrics as weighted
from softfree.evaluation.intervals import bias_corrected, wilson
from softfree.evaluation.scores import Scores, undefined_reason
from softfree_runtime.core.task import Task

TEMPERATURES = (0.05, 20.0)
DEFAULT_THRESHOLD = 0.5


def fit_temperature(logits: np.ndarray, targets: np.ndarray, task: Task) -> float:
    """Find the temperature that minimizes the negative log likelihood on validation samples (Guo et al., ICML 2017).

    Args:
        logits: ``(n, K)``.
        targets: As in :class:`~softfree.evaluation.scores.Scores`; unknown ones (NaN) are ignored.
        task: The prediction task.

    Returns:
        A number in 0.05..20; 1 if the samples do not determine it: no samples, logits that are not finite, a single
        class, or no errors at all, since the likelihood then grows without bound as the temperature falls.
    """
    z = np.asarray(logits, dtype=np.float64)
    targets = np.asarray(targets, dtype=np.float64)
    known = ~np.isnan(targets)
    known_targets = targets[known]
    if not np.isfinite(z).all() or len(np.unique(known_targets)) < 2:
        return 1.0
    if task.ordered:  # the cuts that each sample is asked about: those that it exceeds, and the first that it does not
        labels, cuts = targets.astype(np.int64)[:, None], np.arange(z.shape[1])
        margins = np.where(labels > cuts, z, -z)[cuts <= labels]
    elif task.exclusive:
        labels = known_targets.astype(np.int64)
        z = z[known]
        rivals = z.copy()
        rivals[np.arange(len(z)), labels] = -np.inf
        margins = z[np.arange(len(z)), labels] - rivals.max(1)
    else:
        margins = np.where(known_targets == 1, z[known], -z[known])
    if (margins > 0).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        if task.exclusive and not task.ordered:
            return -float(log_softmax(z * inverse, axis=1)[np.arange(len(z)), labels].mean())
        return float(np.logaddexp(0, -margins * inverse).mean())

    low, high = TEMPERATURES
    result = minimize_scalar(loss, bounds=(math.log(low), math.log(high)), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(result.x))


def ece(y: np.ndarray, p: np.ndarray) -> float:
    """Compute the expected calibration error over bins of equal numbers of samples; NaN without samples.

    It is biased upward: even a perfectly calibrated model has about :func:`ece_by_chance`.
    """
    if len(y) == 0 or np.isnan(p).any():
        return math.nan
    return float(weighted.calibration_error(y, p)(np.ones((1, len(y))))[0])


def ece_by_chance(p: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Simulate the error of perfectly calibrated probabilities ``p (n,)``: mean and 95th percentile.

    Truths are drawn from ``p`` (consistency resampling; Broecker and Smith, Weather and Forecasting 22, 2007).
    """
    rng = np.random.default_rng(seed)
    share = weighted.equal_mass_bins(p)[:, None] == np.arange(weighted.bins_for(len(p)))  # (n, bins)
    draws = min(1000, max(100, 20_000_000 // len(p)))
    rows = max(1, 100_000 // len(p))
    errors = []
    for start in range(0, draws, rows):
        truth = rng.random((min(rows, draws - start), len(p))) < p
        errors.append(np.abs((truth - p) @ share).sum(1) / len(p))
    simulated = np.concatenate(errors)
    return float(simulated.mean()), float(np.quantile(simulated, 0.95))


def reliability(
    y: np.ndarray,
    p: np.ndarray,
    patients: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
    num_bootstrap: int = 1000,
) -> pd.DataFrame:
    """Compare the observed share of positives with the mean probability, in bins of equal numbers of samples.

    Returns:
        One row per nonempty bin: ``predicted``, ``observed``, ``low``, ``high``, ``n``. The interval is
        Wilson's, or from resampled patients if they repeat (NaN if no interval can be given).
    """
    number = weighted.equal_mass_bins(p)
    present = np.unique(number)
    repeat = len(np.unique(patients)) < len(patients)
    shares = {str(b): weighted.mean(np.where(number == b, y, np.nan)) for b in present} if repeat else {}
    draws = bootstrap.distribution(shares, patients, num_bootstrap=num_bootstrap, seed=seed)
    rows = []
    for b in present:
        inside = number == b
        n, positives = int(inside.sum()), int(y[inside].sum())
        if repeat and 0 < positives < n:
            inside_patients = len(np.unique(patients[inside]))
            interval = bias_corrected(positives / n, draws[str(b)], level, "bootstrap", patients=inside_patients)
        else:  # a share of 0 or 1 does not vary over resamples: count patients, to be conservative
            trials = len(np.unique(patients[inside]))
            interval = wilson(round(positives / n * trials), trials, level)
        rows.append((float(p[inside].mean()), positives / n, interval.low, interval.high, n))
    return pd.DataFrame(rows, columns=["predicted", "observed", "low", "high", "n"])


def choose_thresholds(scores: Scores) -> dict[str, float]:
    """Choose the threshold with the largest Youden index (sensitivity + specificity - 1) for each scored class.

    Choose it on the validation samples and keep it for all others: on the samples it was chosen on, results are
    optimistic. A sample is predicted positive if its probability is at least the threshold.

    Returns:
        Class name to threshold: halfway between the two neighboring probabilities; the nearest to 0.5 of
        equally good ones; 0.5 itself if the samples do not determine it (a missing class, or none better than chance).
    """
    return {scores.task.classes[k]: _youden(*scores.one_vs_rest(k)[:2]) for k in scores.task.scored}


def _youden(y: np.ndarray, score: np.ndarray) -> float:
    if undefined_reason(y, score):
        return DEFAULT_THRESHOLD
    order = np.argsort(score, kind="stable")
    ordered, positive = score[order], y[order] == 1
    cuts = np.flatnonzero(np.diff(ordered) > 0)  # between ordered[cut] and ordered[cut + 1]
    if len(cuts) == 0:
        return DEFAULT_THRESHOLD
    positives, negatives = int(positive.sum()), int((~positive).sum())
    missed, spared = np.cumsum(positive)[cuts], np.cumsum(~positive)[cuts]
    # The index times positives * negatives, in integers: equally good cuts compare equal.
    gain = spared * positives - missed * negatives
    if gain.max() <= 0:
        return DEFAULT_THRESHOLD
    best = cuts[gain == gain.max()]
    halfway = (ordered[best] + ordered[best + 1]) / 2
    halfway = np.where(halfway > ordered[best], halfway, ordered[best + 1])  # adjacent floating-point numbers
    return float(halfway[np.argmin(np.abs(halfway - DEFAULT_THRESHOLD))])
