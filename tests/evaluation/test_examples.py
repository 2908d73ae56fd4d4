"""Which samples are worth looking at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from softfree.evaluation.examples import telling_cases
from softfree.evaluation.scores import Scores
from softfree_runtime.core.task import Task


def scores(kind: str, classes: tuple[str, ...], probabilities: object, targets: object) -> Scores:
    p = np.asarray(probabilities, dtype=float)
    return Scores(Task(kind, classes), p, np.asarray(targets), np.arange(len(p)))  # type: ignore[arg-type]


def telling(example: Scores, thresholds: dict[str, float] | None) -> list[tuple[str, int, int]]:
    return [(case.sort, case.index, case.k) for case in telling_cases(example, thresholds)]


def test_two_classes_are_judged_by_the_threshold() -> None:
    ill = np.array([0.99, 0.25, 0.9, 0.001, 0.35, np.nan])
    example = scores("binary", ("well", "ill"), np.stack([1 - ill, ill], 1), [1, 1, 0, 0, 1, 0])
    assert telling(example, {"ill": 0.3}) == [
        ("Confident and right", 3, 0),  # further from 0.3 in log odds than 0.99 is
        ("Confident and wrong", 2, 1),
        ("Close call", 4, 1),
        ("Confident and right", 0, 1),
        ("Confident and wrong", 1, 0),
    ]
    cases = list(telling_cases(example, {"ill": 0.3}))
    assert cases[1].words == "truth well, predicted ill (ill 0.90, threshold 0.30)"
    assert cases[4].words == "truth ill, predicted well (ill 0.25, threshold 0.30)"


def test_samples_with_thresholds_of_their_own_are_judged_by_these() -> None:
    ill = np.array([0.45, 0.45, 0.9, 0.1])
    example = scores("binary", ("healthy", "ill"), np.stack([1 - ill, ill], 1), [1, 1, 1, 0])
    example = replace(example, thresholds={"ill": np.array([0.5, 0.4, 0.5, 0.4])})
    cases = {case.index: case for case in telling_cases(example, {"ill": 0.42})}
    assert {index for index, case in cases.items() if case.sort == "Confident and wrong"} == {0}
    assert cases[0].words == "truth ill, predicted healthy (ill 0.45, threshold 0.50)"
    assert cases[1].words == "truth ill, predicted ill (ill 0.45, threshold 0.40)"
    findings = scores("multilabel", ("x", "y"), [[0.45, 0.3], [0.45, 0.35]], [[1, np.nan], [1, np.nan]])
    findings = replace(findings, thresholds={"x": np.array([0.5, 0.3]), "y": np.array([0.5, 0.5])})
    assert telling(findings, None) == [("Confident and right", 1, 0), ("Confident and wrong", 0, 0)]


def test_the_likeliest_of_several_is_called() -> None:
    p = [[0.8, 0.1, 0.1], [0.4, 0.39, 0.21], [0.05, 0.9, 0.05], [0.45, 0.1, 0.45]]
    example = scores("multiclass", ("a", "b", "c"), p, [0, 0, 2, 2])
    assert telling(example, None) == [
        ("Confident and right", 0, 0),
        ("Confident and wrong", 2, 1),
        ("Close call", 3, 0),
        ("Confident and right", 1, 0),
    ]
    assert next(telling_cases(example, None)).words == "truth a, predicted a (a 0.80)"


def test_findings_are_judged_one_by_one() -> None:
    p = [[0.9, 0.001], [0.2, 0.999], [0.7, 0.5], [0.999, 0.001]]
    example = scores("multilabel", ("effusion", "nodule"), p, [[1, 0], [1, 0], [np.nan, 1], [np.nan, np.nan]])
    assert telling(example, {"effusion": 0.5, "nodule": 0.4}) == [
        ("Confident and right", 0, 0),  # not the nodule that is absent and not called, and no finding that is unknown
        ("Confident and wrong", 1, 1),
        ("Close call", 2, 1),
    ]
    words = [case.words for case in telling_cases(example, None)]
    assert words[1] == "nodule absent (nodule 1.00, threshold 0.50)"


def test_nothing_to_choose_from() -> None:
    example = scores("binary", ("well", "ill"), [[np.nan, np.nan]], [0])
    assert telling(example, None) == []
    sure = scores("binary", ("well", "ill"), [[0, 1], [1, 0]], [1, 1])
    assert [case[0] for case in telling(sure, None)] == ["Confident and right", "Confident and wrong"]
