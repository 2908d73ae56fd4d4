"""Risk and survival from outputs, against plain formulas."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softfree.inference.predict import outputs
from softfree.inference.run_directory import Calibration
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import columns
from softfree_runtime.core.survival import Survival, check_survival
from softfree_runtime.core.task import Task, check_task

HAZARDS = Task("survival", ("days",), (10.0, 30.0, 100.0))
COX = Task("survival", ("days",))
BASELINE = Survival((5.0, 20.0), (4.0, 10.0, 25.0), (0.1, 0.4, 0.4), 0.5)


def test_survival_is_the_product_of_the_intervals() -> None:
    logits = np.array([[-1.0, 0.0, 2.0], [0.3, -3.0, -50.0]])
    hazards = 1 / (1 + np.exp(-logits))
    at_cuts = np.cumprod(1 - hazards, axis=1)
    found = Survival((10.0,)).probabilities(logits, HAZARDS, np.array([0.0, 10, 30, 100, 101]))
    np.testing.assert_allclose(found[:, 1:4], at_cuts, rtol=1e-12)
    assert (found[:, 0] == 1).all()
    assert np.isnan(found[:, 4]).all()
    halfway = Survival((20.0,)).probabilities(logits, HAZARDS, np.array([20.0]))[:, 0]
    np.testing.assert_allclose(halfway, np.sqrt(at_cuts[:, 0] * at_cuts[:, 1]))  # a constant hazard within


def test_the_risk_is_the_share_of_time_that_is_lost() -> None:
    logits = np.random.default_rng(0).normal(-1, 1, (5, 3))
    along = np.linspace(0, 100, 200_001)
    curves = Survival((10.0,)).probabilities(logits, HAZARDS, along)
    lost = 1 - np.trapezoid(curves, along, axis=1) / 100
    np.testing.assert_allclose(Survival((10.0,)).risks(logits, HAZARDS), lost, atol=1e-8)
    extremes = Survival((10.0,)).risks(np.array([[-800.0] * 3, [800.0] * 3]), HAZARDS)
    np.testing.assert_allclose(extremes, [0, 1], atol=0.01)


def test_a_higher_hazard_is_a_higher_risk_and_less_survival() -> None:
    for task, survival in ((HAZARDS, Survival((5.0, 50.0))), (COX, BASELINE)):
        low, high = np.full((1, len(task.outputs)), -1.0), np.full((1, len(task.outputs)), 1.0)
        assert survival.risks(low, task)[0] < survival.risks(high, task)[0]
        at = np.array(survival.horizons)
        assert (survival.probabilities(low, task, at) > survival.probabilities(high, task, at)).all()


def test_a_cox_model_multiplies_its_baseline() -> None:
    found = BASELINE.probabilities(np.array([[0.5], [1.5]]), COX, np.array([3.9, 4.0, 9.0, 10.0, 25.0, 25.1]))
    np.testing.assert_allclose(found[0, :5], np.exp([-0.0, -0.1, -0.1, -0.4, -0.4]))
    np.testing.assert_allclose(found[1, :5], found[0, :5] ** np.e)
    assert np.isnan(found[:, 5]).all()
    np.testing.assert_allclose(BASELINE.risks(np.array([[0.5], [1.5]]), COX), [0, 1])


def test_outputs_are_calibrated_first() -> None:
    logits, at = np.array([[-1.0, 0.0, 2.0]]), np.array([5.0, 50])
    calibrated = Survival((5.0, 50.0), slope=0.5, level=-0.25)
    plain = Survival((5.0, 50.0))
    by_hand = logits / 2 - 0.25
    np.testing.assert_allclose(
        calibrated.probabilities(logits, HAZARDS, at), plain.probabilities(by_hand, HAZARDS, at), rtol=1e-12
    )
    np.testing.assert_allclose(calibrated.risks(logits, HAZARDS), plain.risks(by_hand, HAZARDS), rtol=1e-12)
    cox = replace(BASELINE, slope=0.5)
    found = cox.probabilities(np.array([[0.5], [2.5]]), COX, np.array([4.0]))
    np.testing.assert_allclose(found[:, 0], np.exp([-0.1, -0.1 * np.e]))
    np.testing.assert_allclose(cox.risks(np.array([[0.5], [2.5]]), COX), [0, 1])
    described = {"horizons": [5.0, 50.0], "slope": 0.5, "level": -0.25}
    assert check_survival(Path("c.json"), described, HAZARDS, "copy it") == calibrated


@pytest.mark.parametrize(
    ("task", "survival"), [(HAZARDS, Survival((5.0, 50.0), slope=0.7, level=0.2)), (COX, BASELINE)]
)
def test_columns_equal_those_of_predict(task: Task, survival: Survival) -> None:
    logits = np.random.default_rng(1).normal(0, 2, (8, len(task.outputs)))
    logits[3] = np.nan
    expected = outputs(logits, task, Calibration(survival=survival))
    rows = [columns(row, task, 1.0, {}, survival=survival) for row in logits]
    assert list(rows[0]) == list(expected)
    assert list(expected) == ["risk", *(f"survival_{horizon:g}" for horizon in survival.horizons)]
    assert rows[3] == dict.fromkeys(expected)
    for name in expected:
        np.testing.assert_allclose(np.array([row[name] for row in rows], float), expected[name], rtol=1e-12)


def test_horizons_that_look_alike_have_columns_of_their_own() -> None:
    cox = Survival((1e6, 1e6 + 2), times=(1e6, 2e6), hazards=(0.1, 0.2))
    found = cox.columns(np.array([0.0]), COX)
    assert list(found) == ["risk", "survival_1000000", "survival_1000002"]
    assert list(cox.columns(np.array([np.nan]), COX)) == list(found)


@pytest.mark.parametrize(
    "content",
    [
        {"horizons": [5.0, 5.0]},
        {"horizons": [0.0]},
        {"horizons": [1.0]},
        {"horizons": [1.0], "times": [1.0], "hazards": []},
        {"horizons": [1.0], "times": [1.0, 2.0], "hazards": [0.3, 0.2]},
        {"horizons": "soon"},
        {"horizon": [1.0]},
        {"horizons": [1.0], "times": [1.0], "hazards": [0.1], "slope": 0.0},
    ],
)
def test_a_damaged_baseline_is_refused(content: dict) -> None:
    with pytest.raises(UserError, match="survival"):
        check_survival(Path("c.json"), content, COX, "copy it")


def test_files_describe_tasks_with_cuts() -> None:
    described = {"kind": "survival", "classes": ["days"], "cuts": [10, 30, 100]}
    assert check_task(Path("c.yaml"), described) == HAZARDS
    assert check_task(Path("c.yaml"), {"kind": "survival", "classes": ["days"]}) == COX
    for cuts in ([10, 10], [0, 1], ["a"], 5):
        with pytest.raises(UserError, match=r"task\.cuts"):
            check_task(Path("c.yaml"), described | {"cuts": cuts})
    with pytest.raises(UserError, match="survival only"):
        check_task(Path("c.yaml"), {"kind": "binary", "classes": ["a", "b"], "cuts": [1]})
    with pytest.raises(UserError, match="survival is missing"):
        check_survival(Path("c.json"), None, COX, "copy it")
