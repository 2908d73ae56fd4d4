"""The most informative samples: where the model is confident and right, confident and wrong, or undecided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from softfree.evaluation.metric_specs import predict_labels, row_thresholds
from softfree.evaluation.scores import Scores

SORTS = ("Confident and right", "Confident and wrong", "Close call")


@dataclass(frozen=True)
class Case:
    """A sample worth looking at.

    Attributes:
        sort: One of :data:`SORTS`.
        index: Of the sample among the scores.
        k: The class in question: the predicted one, or the finding.
        words: Truth and prediction.
    """

    sort: str
    index: int
    k: int
    words: str


@dataclass(frozen=True)
class _Decisions:
    """Decisions (d,) of a model about a class: one per sample, or one per known finding."""

    index: np.ndarray
    k: np.ndarray
    right: np.ndarray
    present: np.ndarray
    margin: np.ndarray  # in log odds: from the threshold, or from the second most probable class


def telling_cases(scores: Scores, thresholds: Mapping[str, float] | None) -> Iterator[Case]:
    """Choose samples: most confident and right, most confident and wrong, least confident, and so on, each sample once.

    Confidence is the distance in log odds from the threshold, or in multiclass tasks from the second most probable
    class. Findings that are absent and not predicted, as most are, never count as "confident and right".

    Args:
        scores: Calibrated scores.
        thresholds: As in :func:`~softfree.evaluation.metric_specs.predict_labels`.
    """
    decisions = (_by_finding if scores.task.kind == "multilabel" else _by_sample)(scores, thresholds)
    surest = np.argsort(-decisions.margin, kind="stable")
    least = np.argsort(decisions.margin, kind="stable")
    queues = {
        SORTS[0]: iter(surest[(decisions.right & decisions.present)[surest]]),
        SORTS[1]: iter(surest[~decisions.right[surest]]),
        SORTS[2]: iter(least),
    }
    used: set[int] = set()
    while queues:
        for sort, queue in list(queues.items()):
            row = next((row for row in queue if int(decisions.index[row]) not in used), None)
            if row is None:
                del queues[sort]
                continue
            index, k = int(decisions.index[row]), int(decisions.k[row])
            used.add(index)
            yield Case(sort, index, k, _words(scores, thresholds, index, k))


def _by_sample(scores: Scores, thresholds: Mapping[str, float] | None) -> _Decisions:
    index = np.flatnonzero(~np.isnan(scores.probabilities).any(axis=1))
    p = scores.probabilities[index].clip(1e-12, 1 - 1e-12)
    k = predict_labels(scores, thresholds)[index].argmax(axis=1)
    if scores.task.kind == "binary":
        margin = np.abs(logit(p[:, 1]) - _odds(scores, 1, thresholds)[index])
    else:
        second, first = np.sort(np.log(p), axis=1)[:, -2:].T
        margin = first - second
    return _Decisions(index, k, k == scores.targets[index], np.ones(len(index), dtype=bool), margin)


def _by_finding(scores: Scores, thresholds: Mapping[str, float] | None) -> _Decisions:
    index, k = np.nonzero(~np.isnan(scores.targets) & ~np.isnan(scores.probabilities))
    present = predict_labels(scores, thresholds)[index, k]
    odds = np.stack([_odds(scores, k, thresholds) for k in range(len(scores.task.classes))], axis=1)
    margin = np.abs(logit(scores.probabilities[index, k].clip(1e-12, 1 - 1e-12)) - odds[index, k])
    return _Decisions(index, k, present == (scores.targets[index, k] == 1), present, margin)


def _odds(scores: Scores, k: int, thresholds: Mapping[str, float] | None) -> np.ndarray:
    """Return the log odds of the threshold of class ``k`` for each sample ``(n,)``."""
    return np.asarray(logit(row_thresholds(scores, scores.task.classes[k], thresholds).clip(1e-12, 1 - 1e-12)))


def _words(scores: Scores, thresholds: Mapping[str, float] | None, index: int, k: int) -> str:
    task = scores.task
    scored = task.scored[0] if task.kind == "binary" else k
    probability = f"{task.classes[scored]} {scores.probabilities[index, scored]:.2f}"
    if task.by_threshold:
        probability += f", threshold {row_thresholds(scores, task.classes[scored], thresholds)[index]:.2f}"
    if not task.exclusive:
        return f"{task.classes[k]} {'present' if scores.targets[index, k] == 1 else 'absent'} ({probability})"
    return f"truth {task.classes[int(scores.targets[index])]}, predicted {task.classes[k]} ({probability})"
