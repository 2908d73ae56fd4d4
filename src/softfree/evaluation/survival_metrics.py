"""Statistics of survival over many resamples at once: concordance, and AUROC and Brier score at a time.

Samples that are censored before a time are not known to be with or without the event by then. Those that are known
stand for them: each is weighted by one over the probability not to be censored until then, which is the Kaplan-Meier
estimate of the same resample (inverse probability of censoring weighting). That assumes that censoring does not depend
on the risk.
"""

from __future__ import annotations

import math

import numpy as np

from softfree.data.follow_up import EVENT, TIME
from softfree.evaluation.bootstrap import Statistic

MOST_PAIRS = 64_000_000
"""Pairs that are kept in memory, 512 MB; more are compared anew for each block of resamples."""
_BLOCK = 512


def c_index(risks: np.ndarray, targets: np.ndarray) -> float:
    """Compute Harrell's C-index: the share of comparable pairs in which the earlier event has the higher risk.

    A pair is comparable if one sample has the event while the other is known to be without it for longer, or as long.
    Equal risks count one half; 0.5 is chance, and a model whose risk rises with the hazard has more (Harrell, Lee and
    Mark, Statistics in Medicine 15, 1996).

    Args:
        risks: ``(n,)``, higher for an earlier event.
        targets: ``(n, 2)`` times and events.

    Returns:
        NaN without a comparable pair, or with a risk that is NaN.
    """
    if np.isnan(risks).any():
        return math.nan
    return float(concordance(risks, targets)(np.ones((1, len(risks))))[0])


def concordance(risks: np.ndarray, targets: np.ndarray) -> Statistic:
    """Compute :func:`c_index`."""
    earlier = np.flatnonzero(targets[:, EVENT] == 1)
    blocks = [earlier[start : start + _BLOCK] for start in range(0, len(earlier), _BLOCK)]
    keep = len(earlier) * len(risks) <= MOST_PAIRS
    kept = [_pairs(rows, risks, targets) for rows in blocks] if keep else []

    def statistic(weights: np.ndarray) -> np.ndarray:
        won, total = np.zeros(len(weights)), np.zeros(len(weights))
        for number, rows in enumerate(blocks):
            comparable, credit = kept[number] if keep else _pairs(rows, risks, targets)
            drawn = weights[:, rows].astype(np.float32)
            total += ((drawn @ comparable) * weights).sum(axis=1)
            won += ((drawn @ credit) * weights).sum(axis=1)
        return _ratio(won, total)

    return statistic


def _pairs(rows: np.ndarray, risks: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs of events and samples are comparable ``(E, n)``, and the credit for each, 0, 1/2 or 1."""
    times, own = targets[:, TIME], targets[rows, TIME, None]
    comparable = (times > own) | ((times == own) & (targets[:, EVENT] == 0))
    credit = (risks[rows, None] > risks) + 0.5 * (risks[rows, None] == risks)
    return comparable.astype(np.float32), (comparable * credit).astype(np.float32)


class Censoring:
    """The probability not to be censored, by Kaplan and Meier; events come before censorings at the same time.

    Args:
        targets: ``(n, 2)`` times and events.
    """

    def __init__(self, targets: np.ndarray) -> None:
        self.order = np.argsort(targets[:, TIME], kind="stable")
        self.times, self.starts = np.unique(targets[self.order, TIME], return_index=True)
        self.censored = targets[self.order, EVENT] == 0

    def steps(self, weights: np.ndarray) -> np.ndarray:
        """Return the probability after each distinct time ``(b, U + 1)`` of resamples ``(b, n)``, from 1 before all."""
        drawn = weights[:, self.order]
        leaving = np.add.reduceat(drawn, self.starts, axis=1)
        censored = np.add.reduceat(drawn * self.censored, self.starts, axis=1)
        at_risk = drawn.sum(axis=1, keepdims=True) - np.cumsum(leaving, axis=1) + censored  # after the events
        share = np.divide(censored, at_risk, out=np.zeros_like(censored), where=at_risk > 0)
        return np.concatenate([np.ones((len(weights), 1)), np.cumprod(1 - share, axis=1)], axis=1)

    def before(self, times: np.ndarray) -> np.ndarray:
        """Return the columns of :meth:`steps` just before ``times``."""
        return np.searchsorted(self.times, times, side="left")

    def at(self, time: float) -> int:
        """Return the column of :meth:`steps` at a time, after what happens then."""
        return int(np.searchsorted(self.times, time, side="right"))


def auroc_at(scores: np.ndarray, targets: np.ndarray, horizon: float) -> Statistic:
    """Compute the cumulative/dynamic AUROC: samples with the event by the horizon against those free of it after it.

    Estimated with weights for censoring (Uno et al., JASA 102, 2007; Hung and Chiang, Canadian Journal of Statistics
    38, 2010).

    Args:
        scores: ``(n,)``, higher for the event.
        targets: ``(n, 2)`` times and events.
        horizon: The time.
    """
    censoring = Censoring(targets)
    case, control = _sides(targets, horizon)
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    before = censoring.before(targets[:, TIME])

    def statistic(weights: np.ndarray) -> np.ndarray:
        kept = censoring.steps(weights)[:, before]
        cases = np.divide(weights * case, kept, out=np.zeros_like(weights), where=case & (kept > 0))
        positives = np.cumsum(cases[:, order], axis=1)[:, ends]
        negatives = np.cumsum((weights * control)[:, order], axis=1)[:, ends]
        lower = negatives - np.diff(negatives, axis=1, prepend=0) / 2
        won = np.diff(positives, axis=1, prepend=0) * lower
        return _ratio(won.sum(axis=1), positives[:, -1] * negatives[:, -1])

    return statistic


def brier_at(survival: np.ndarray, targets: np.ndarray, horizon: float) -> Statistic:
    """Compute the Brier score at a horizon with weights for censoring (Graf et al., Statistics in Medicine 18, 1999).

    Args:
        survival: ``(n,)`` predicted probability to be free of the event at the horizon.
        targets: ``(n, 2)`` times and events.
        horizon: The time.
    """
    return integrated_brier(survival[:, None], targets, np.array([horizon]))


def integrated_brier(survival: np.ndarray, targets: np.ndarray, times: np.ndarray) -> Statistic:
    """Compute the mean of the Brier scores at equally spaced times.

    Args:
        survival: ``(n, T)`` predicted probability to be free of the event at the times.
        targets: ``(n, 2)`` times and events.
        times: ``(T,)``.
    """
    censoring = Censoring(targets)
    before = censoring.before(targets[:, TIME])
    sides = [_sides(targets, float(time)) for time in times]

    def statistic(weights: np.ndarray) -> np.ndarray:
        steps = censoring.steps(weights)
        kept, total = steps[:, before], np.zeros(len(weights))
        inverse = np.divide(weights, kept, out=np.zeros_like(weights), where=kept > 0)
        for column, (time, (case, control)) in enumerate(zip(times, sides, strict=True)):
            wrong = inverse @ (case * survival[:, column] ** 2)
            later = weights @ (control * (1 - survival[:, column]) ** 2)
            total += wrong + _ratio(later, steps[:, censoring.at(float(time))])
        return _ratio(total, len(times) * weights.sum(axis=1))

    return statistic


def _sides(targets: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples have the event by the horizon, and which are known to be free of it then, boolean."""
    return (targets[:, TIME] <= horizon) & (targets[:, EVENT] == 1), targets[:, TIME] > horizon


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
