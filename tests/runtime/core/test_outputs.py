"""The columns are those of softfree predict."""

from pathlib import Path

import numpy as np
import pytest

from softfree.inference.predict import outputs
from softfree.inference.run_directory import Calibration
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import chosen_classes, columns, probabilities
from softfree_runtime.core.scale import Scale, check_scale
from softfree_runtime.core.task import Task

GRADES = Task("ordinal", ("a", "b", "c"))
TASKS = [
    Task("binary", ("a", "b")), Task("multiclass", ("a", "b", "c")), Task("multilabel", ("a", "b", "c")), GRADES
]  # fmt: skip


@pytest.mark.parametrize("with_sets", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_equals_prediction(task: Task, with_sets: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, len(task.outputs)))
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
        result = probabilities(np.array([[1e4, -1e4, 0][: len(task.outputs)]]), task)
    np.testing.assert_allclose(result[0, :2], [0, 1] if task.ordered else [1, 0])


def test_no_logits_give_nothing() -> None:
    assert columns(np.array([np.nan, np.nan]), TASKS[0], 1.0, {}) == {
        "p_a": None, "p_b": None, "raw_a": None, "raw_b": None, "predicted": "",
    }  # fmt: skip


def test_grades_are_reached_cut_by_cut() -> None:
    above_a, above_b = 1 / (1 + np.exp(-0.4 / 2)), 1 / (1 + np.exp(1.2 / 2))  # P(y > a), P(y > b | y > a)
    expected = [1 - above_a, above_a * (1 - above_b), above_a * above_b]
    np.testing.assert_allclose(probabilities(np.array([[0.4, -1.2]]), GRADES, 2.0), [expected], rtol=1e-14)


def test_whatever_the_logits_grades_have_probabilities() -> None:
    logits = np.random.default_rng(0).normal(0, 20, (500, 6))
    task = Task("ordinal", tuple("abcdefg"))
    p = probabilities(logits, task, 0.7)
    assert p.min() >= 0
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(probabilities(np.full((1, 6), 1e3), task)[0, -1], 1)


def test_the_median_grade_is_predicted() -> None:
    p = np.array([[0.4, 0.25, 0.35], [0.6, 0.1, 0.3], [0.2, 0.2, 0.6]])  # most probable: 0, 0, 2
    assert chosen_classes(p, GRADES).tolist() == [1, 0, 2]
    distances = np.abs(np.arange(3)[:, None] - np.arange(3)) @ p.T
    assert distances.argmin(axis=0).tolist() == [1, 0, 2]
    assert columns(np.log([0.6 / 0.4, 0.35 / 0.25]), GRADES, 1.0, {})["predicted"] == "b"


def test_grades_between_plausible_ones_are_plausible() -> None:
    sets = ConformalSets(0.9, {"a": 0.3, "b": 0.3, "c": 0.3})
    assert sets.plausible(np.array([[0.4, 0.2, 0.4], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]]), GRADES).tolist() == [
        [True, True, True], [True, True, False], [False, False, True],
    ]  # fmt: skip


def test_a_number_has_its_unit_and_an_interval() -> None:
    volume = Task("regression", ("volume",))
    scale = Scale(offset=3000.0, coverage=0.9, half_width=50.0)
    assert columns(np.array([-0.5]), volume, 1 / 400, {}, None, scale) == {"value": 2800, "low": 2750, "high": 2850}
    nothing = {"value": None, "low": None, "high": None}
    assert columns(np.array([np.nan]), volume, 1 / 400, {}, None, scale) == nothing
    without = columns(np.array([0.0]), volume, 1 / 400, {}, None, Scale(offset=1.0))
    assert without == {"value": 1, "low": None, "high": None}
    table = outputs(np.array([[-0.5], [np.nan]]), volume, Calibration(1 / 400, scale=scale))
    assert table.loc[0].to_dict() == {"value": 2800, "low": 2750, "high": 2850}
    assert table.loc[1].isna().all()


@pytest.mark.parametrize("wrong", [{"half_width": -1.0}, {"coverage": 1.5}, {"offset": float("nan")}])
def test_a_scale_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"c\.json: scale"):
        check_scale(Path("c.json"), {"offset": 1.0, "coverage": 0.9, "half_width": 2.0} | wrong, "copy again")
