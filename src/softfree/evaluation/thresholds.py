"""Decision thresholds."""

from __future__ import annotations

import numpy as np

from softfree.evaluation.scores import Scores, undefined_reason

DEFAULT = 0.5


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
        return DEFAULT
    order = np.argsort(score, kind="stable")
    ordered, positive = score[order], y[order] == 1
    cuts = np.flatnonzero(np.diff(ordered) > 0)  # between ordered[cut] and ordered[cut + 1]
    if len(cuts) == 0:
        return DEFAULT
    positives, negatives = int(positive.sum()), int((~positive).sum())
    missed, spared = np.cumsum(positive)[cuts], np.cumsum(~positive)[cuts]
    # The index times positives * negatives, in integers: equally good cuts compare equal.
    gain = spared * positives - missed * negatives
    if gain.max() <= 0:
        return DEFAULT
    best = cuts[gain == gain.max()]
    halfway = (ordered[best] + ordered[best + 1]) / 2
    halfway = np.where(halfway > ordered[best], halfway, ordered[best + 1])  # adjacent floating-point numbers
    return float(halfway[np.argmin(np.abs(halfway - DEFAULT))])
