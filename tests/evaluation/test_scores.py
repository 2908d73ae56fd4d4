import numpy as np
import pytest

from softfree.evaluation.scores import Scores, undefined_reason
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
THREE = Task("multiclass", ("a", "b", "c"))
FINDINGS = Task("multilabel", ("x", "y"))


def test_one_vs_rest() -> None:
    p = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    y, score, patients = Scores(THREE, p, np.array([2, 0]), np.array([5, 6])).one_vs_rest(2)
    assert y.tolist() == [1, 0]
    assert score.tolist() == [0.5, 0.1]
    assert patients.tolist() == [5, 6]


def test_unknown_truths_are_dropped() -> None:
    targets = np.array([[1, np.nan], [0, 1], [np.nan, 0]], dtype=np.float32)
    scores = Scores(FINDINGS, np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.4]]), targets, np.array([1, 1, 2]))
    y, score, patients = scores.one_vs_rest(1)
    assert (y.tolist(), score.tolist(), patients.tolist()) == ([1, 0], [0.8, 0.4], [1, 2])
    assert scores.known(0).tolist() == [True, True, False]
    assert scores.patients_repeat
    assert len(scores.subset(np.array([True, False, True]))) == 2


def test_a_row_with_a_hole_names_no_class() -> None:
    p = np.array([[np.nan, 0.4, 0.5], [0.1, 0.2, 0.7]])
    scores = Scores(THREE, p, np.array([2, 2]), np.array([0, 1]))
    assert np.isnan(scores.probabilities[0]).all()
    assert undefined_reason(*scores.one_vs_rest(2)[:2]) == "1 of 2 scores are not a number"


@pytest.mark.parametrize(
    ("task", "probabilities", "targets", "patients", "words"),
    [
        (BINARY, [[0.5, 0.2, 0.3]], [0], [0], r"expected \(samples, 2\)"),
        (BINARY, [0.5], [0], [0], r"expected \(samples, 2\)"),
        (BINARY, [[-3.0, 4.0]], [0], [0], "turn logits into probabilities"),
        (BINARY, [[0.5, 0.5]], [2], [0], "whole numbers from 0 to 1"),
        (BINARY, [[0.5, 0.5]], [0.5], [0], "whole numbers from 0 to 1"),
        (BINARY, [[0.5, 0.5]], [0, 1], [0], "one class number for each sample"),
        (BINARY, [[0.5, 0.5]], [0], [0, 1], "one for each sample"),
        (FINDINGS, [[0.5, 0.5]], [[0, 2]], [0], "1 present, 0 absent, NaN unknown"),
        (FINDINGS, [[0.5, 0.5]], [1], [0], "one column per finding"),
    ],
)
def test_what_does_not_fit(task: Task, probabilities: list, targets: list, patients: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Scores(task, np.array(probabilities), np.array(targets), np.array(patients))
