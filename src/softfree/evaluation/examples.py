"""The samples that tell most about a model: where it is sure and right, sure and wrong, and undecided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from softfree.evaluation.metric_specs import predict_labels, threshold_of
from softfree.evaluation.scores import Scores

SORTS = ("Sure and right", "Sure and wrong", "Close call")


@dataclass(frozen=True)
class Case:
    """A sample that is worth looking at.

    Attributes:
        sort: one of :data:`SORTS`.
        index: of the sample among the scores.
        k: the class that is spoken of: the one that is called, or the finding.
        words: truth and answer.
    """

    sort: str
    index: int
    k: int
    words: str


@dataclass(frozen=True)
class _Decisions:
    """Decisions (d,) of a model about a class: one a sample, or one for each known finding of it."""

    index: np.ndarray
    k: np.ndarray
    right: np.ndarray
    present: np.ndarray
    margin: np.ndarray  # in log odds: from the threshold, or from the second likeliest class


def telling_cases(scores: Scores, thresholds: Mapping[str, float] | None) -> Iterator[Case]:
    """Choose samples: the surest that is right, the surest that is wrong, the least sure, and so on, each sample once.

    What is sure is measured in log odds: from the threshold, or where one of several classes is called from the second
    likeliest. Of findings, what is absent and not called is never "sure and right": most are.

    Args:
        scores: calibrated.
        thresholds: as :func:`~softfree.evaluation.metric_specs.called` has them.
    """
    made = (_by_finding if scores.task.kind == "multilabel" else _by_sample)(scores, thresholds)
    surest, least = np.argsort(-made.margin, kind="stable"), np.argsort(made.margin, kind="stable")
    queues = {
        SORTS[0]: iter(surest[(made.right & made.present)[surest]]),
        SORTS[1]: iter(surest[~made.right[surest]]),
        SORTS[2]: iter(least),
    }
    used: set[int] = set()
    while queues:
        for sort, queue in list(queues.items()):
            place = next((place for place in queue if int(made.index[place]) not in used), None)
            if place is None:
                del queues[sort]
                continue
            index, k = int(made.index[place]), int(made.k[place])
            used.add(index)
            yield Case(sort, index, k, _words(scores, thresholds, index, k))


def _by_sample(scores: Scores, thresholds: Mapping[str, float] | None) -> _Decisions:
    index = np.flatnonzero(~np.isnan(scores.probabilities).any(axis=1))
    p = scores.probabilities[index].clip(1e-12, 1 - 1e-12)
    k = predict_labels(scores, thresholds)[index].argmax(axis=1)
    if scores.task.kind == "binary":
        margin = np.abs(logit(p[:, 1]) - _odds(scores, 1, thresholds))
    else:
        second, first = np.sort(np.log(p), axis=1)[:, -2:].T
        margin = first - second
    return _Decisions(index, k, k == scores.targets[index], np.ones(len(index), dtype=bool), margin)


def _by_finding(scores: Scores, thresholds: Mapping[str, float] | None) -> _Decisions:
    index, k = np.nonzero(~np.isnan(scores.targets) & ~np.isnan(scores.probabilities))
    present = predict_labels(scores, thresholds)[index, k]
    odds = np.array([_odds(scores, one, thresholds) for one in range(len(scores.task.classes))])
    margin = np.abs(logit(scores.probabilities[index, k].clip(1e-12, 1 - 1e-12)) - odds[k])
    return _Decisions(index, k, present == (scores.targets[index, k] == 1), present, margin)


def _odds(scores: Scores, k: int, thresholds: Mapping[str, float] | None) -> float:
    return float(logit(np.clip(threshold_of(scores.task.classes[k], thresholds), 1e-12, 1 - 1e-12)))


def _words(scores: Scores, thresholds: Mapping[str, float] | None, index: int, k: int) -> str:
    task = scores.task
    asked = task.scored[0] if task.kind == "binary" else k
    given = f"{task.classes[asked]} {scores.probabilities[index, asked]:.2f}"
    if task.kind != "multiclass":
        given += f", called from {threshold_of(task.classes[asked], thresholds):.2f}"
    if not task.exclusive:
        return f"{task.classes[k]} {'present' if scores.targets[index, k] == 1 else 'absent'} ({given})"
    return f"truth {task.classes[int(scores.targets[index])]}, called {task.classes[k]} ({given})"
