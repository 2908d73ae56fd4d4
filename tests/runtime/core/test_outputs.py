"""The columns are those of softfree predict."""

import numpy as np
import pytest

from softfree.inference.predict import outputs
from softfree.inference.run_directory import Calibration
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.outputs import columns, probabilities
from softfree_runtime.core.task import Task

TASKS = [Task("binary", ("a", "b")), Task("multiclass", ("a", "b", "c")), Task("multilabel", ("a", "b", "c"))]


@pytest.mark.parametrize("with_sets", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_equals_prediction(task: Task, with_sets: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, len(task.classes)))
    thresholds = {"b": 0.3, "c": 0.8}
    minima = {"a": 0.3, "b": 0.4, "c": 0.2}
    present = {name: minima[name] for name in task.classes}
    sets = ConformalSets(0.9, present, {} if task.exclusive else present) if with_sets else None
    expected = outputs(logits, task, Calibration(1.7, thresholds, sets))
    results = [columns(row, task, 1.7, thresholds, sets) for row in logits]
    assert list(results[0]) == list(expected)
    for name in expected:
        values = [row[name] for row in results]
        if name.startswith(("predicted", "set", "abstain")):
            assert values == expected[name].tolist()
        else:
            np.testing.assert_allclose(np.array(values, float), expected[name], rtol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_large_logits_do_not_overflow(task: Task) -> None:
    with np.errstate(all="raise", under="ignore"):
        result = probabilities(np.array([[1e4, -1e4, 0][: len(task.classes)]]), task)
    np.testing.assert_allclose(result[0, :2], [1, 0])


def test_no_logits_give_nothing() -> None:
    assert columns(np.array([np.nan, np.nan]), TASKS[0], 1.0, {}) == {
        "p_a": None, "p_b": None, "raw_a": None, "raw_b": None, "predicted": "",
    }  # fmt: skip
