"""The probability from which a finding is called present."""

from __future__ import annotations

import numpy as np

from softfree.evaluation.scores import Scores, undefined_reason

DEFAULT = 0.5


def choose_thresholds(scores: Scores) -> dict[str, float]:
    """Choose the threshold with the largest Youden index (sensitivity + specificity - 1) for each scored class.

    To be chosen on the validation samples and kept for all others: chosen on the samples it is judged by, it
    flatters. A sample is called positive when its probability is at least the threshold.

    Returns:
        Class name to threshold: halfway between the two neighboring probabilities; of equally good ones the
        nearest to 0.5; 0.5 itself where the samples cannot tell (a class absent, no threshold better than chance).
    """
    return {scores.task.classes[k]: _youden(*scores.one_vs_rest(k)[:2]) for k in scores.task.scored}


def _youden(y: np.ndarray, score: np.ndarray) -> float:
    if undefined_reason(y, score):
        return DEFAULT
    order = np.argsort(score, kind="stable")
    ordered, positive = score[order], y[order] == 1
    cuts = np.flatnonzero(np.diff(ordered) > 0)  # between ordered[cut] and ordered[cut + 1]
    if len(cuts) == 0:
        return DEFAULT
    positives, negatives = int(positive.sum()), int((~positive).sum())
    missed, spared = np.cumsum(positive)[cuts], np.cumsum(~positive)[cuts]
    # The index times positives * negatives, in whole numbers: equally good cuts compare equal.
    gain = spared * positives - missed * negatives
    if gain.max() <= 0:
        return DEFAULT
    best = cuts[gain == gain.max()]
    halfway = (ordered[best] + ordered[best + 1]) / 2
    halfway = np.where(halfway > ordered[best], halfway, ordered[best + 1])  # neighbors one rounding step apart
    return float(halfway[np.argmin(np.abs(halfway - DEFAULT))])
