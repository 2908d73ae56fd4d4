"""Conformal sets, compared with a library, and what they promise for patients."""

import math
from typing import Any

import numpy as np
import pytest
from crepes import ConformalClassifier
from crepes.extras import hinge
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softfree.evaluation.conformal import fit_sets, measure_coverage, patient_quantile
from softfree.evaluation.scores import Scores
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
FINDINGS = Task("multilabel", ("x", "y"))


@pytest.mark.parametrize(
    ("load", "coverage"), [(load_breast_cancer, 0.9), (load_breast_cancer, 0.97), (load_digits, 0.8)]
)
def test_sets_are_those_of_crepes(load: Any, coverage: float) -> None:
    x, y = load(return_X_y=True)
    x_fit, x_rest, y_fit, y_rest = train_test_split(x, y, train_size=0.3, random_state=0)
    x_val, x_new, y_val, _ = train_test_split(x_rest, y_rest, train_size=0.5, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(x_fit, y_fit)
    names = tuple(f"class {number}" for number in model.classes_)
    task = Task("binary" if len(names) == 2 else "multiclass", names)
    p_val, p_new = model.predict_proba(x_val), model.predict_proba(x_new)

    ours = fit_sets(Scores(task, p_val, y_val, np.arange(len(y_val))), coverage).plausible(p_new, task)
    library = ConformalClassifier().fit(hinge(p_val, model.classes_, y_val), bins=y_val)
    options = {"confidence": coverage, "smoothing": False}
    theirs = [
        library.predict_set(hinge(p_new)[:, [k]], bins=np.full(len(p_new), k), **options)[:, 0] for k in model.classes_
    ]
    assert 0.1 < (ours.sum(axis=1) == 1).mean() < 1
    np.testing.assert_array_equal(ours, np.stack(theirs, axis=1))


@pytest.mark.parametrize(("n", "expected"), [(8, math.inf), (9, 9), (10, 10), (19, 18), (29, 27), (100, 91)])
def test_one_sample_per_patient_gives_the_ordinary_quantile(n: int, expected: float) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert patient_quantile(values, np.arange(n), 0.9) == expected
    if n >= 9:
        assert expected == math.ceil(round((n + 1) * 0.9, 9))


def test_repeated_samples_of_patients_change_nothing() -> None:
    rng = np.random.default_rng(0)
    values, times = rng.normal(size=40), rng.integers(1, 9, 40)
    once = patient_quantile(values, np.arange(40), 0.9)
    assert patient_quantile(np.repeat(values, times), np.repeat(np.arange(40), times), 0.9) == once
    many = np.concatenate([values, np.full(500, values.max() + 1)])
    one_patient_has_many = patient_quantile(many, np.concatenate([np.arange(40), np.zeros(500, int)]), 0.9)
    assert one_patient_has_many <= np.sort(values)[-1], "one of forty patients cannot move the quantile beyond the rest"
    assert np.quantile(many, 0.9) > values.max()


def test_few_patients_with_many_samples_are_few() -> None:
    patients = np.repeat(np.arange(8), 100)
    assert patient_quantile(np.random.default_rng(0).normal(size=800), patients, 0.9) == math.inf


def test_new_patients_are_covered() -> None:
    """Patients differ more than their samples, and those with high values have many samples."""
    rng = np.random.default_rng(0)
    covered, naive = [], []
    for _ in range(3000):
        means = rng.normal(size=41)
        counts = np.where(means < -0.5, 20, 1)
        patients = np.repeat(np.arange(41), counts)
        values = means[patients] + 0.1 * rng.normal(size=len(patients))
        new = rng.choice(values[patients == 40])  # one sample of a new patient
        known = patients < 40
        covered.append(new <= patient_quantile(values[known], patients[known], 0.9))
        naive.append(new <= patient_quantile(values[known], np.arange(known.sum()), 0.9))
    assert 0.89 < np.mean(covered) < 0.9 + 1 / 41 + 0.01
    assert np.mean(naive) < 0.8, "samples as if they were patients: most are those with low values"


def test_sets_in_numbers() -> None:
    p = np.linspace(0.05, 0.95, 19)  # of the true class
    scores = Scores(
        BINARY,
        np.concatenate([np.stack([p, 1 - p], 1), np.tile([0.7, 0.3], (8, 1))]),
        np.repeat([0, 1], [19, 8]),
        np.arange(27),
    )
    sets = fit_sets(scores, 0.9)
    assert sets.present == {"well": pytest.approx(0.1), "ill": 0.0}, "the second lowest of 19; 8 are too few"
    assert sets.columns(np.array([0.5, 0.5]), BINARY) == {"set": '["well", "ill"]', "abstain": True}
    assert sets.columns(np.array([0.05, 0.95]), BINARY) == {"set": '["ill"]', "abstain": False}
    empty = ConformalSets(0.9, {"well": 0.7, "ill": 0.7})
    assert empty.columns(np.array([0.5, 0.5]), BINARY) == {"set": "[]", "abstain": True}
    assert empty.empty_columns(BINARY) == {"set": "", "abstain": None}


def test_findings_have_a_state_each() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((400, 2)) < 0.4).astype(float)
    p = np.clip(0.5 + 0.3 * (truth - 0.5) + 0.2 * rng.normal(size=(400, 2)), 0, 1)
    unknown = truth.copy()
    unknown[300:, 0] = np.nan
    sets = fit_sets(Scores(FINDINGS, p, unknown, np.arange(400)), 0.9)
    known = p[:300, 0][truth[:300, 0] == 1]
    assert sets.present["x"] == np.sort(known)[len(known) - math.ceil((len(known) + 1) * 0.9)]
    assert sets.absent["y"] == pytest.approx(
        np.sort(1 - p[truth[:, 1] == 0, 1])[(truth[:, 1] == 0).sum() - math.ceil(((truth[:, 1] == 0).sum() + 1) * 0.9)]
    )
    plain = ConformalSets(0.9, {"x": 0.4, "y": 0.4}, {"x": 0.5, "y": 0.7})
    states = {(0.9, 0.45): ("present", "present"), (0.45, 0.35): ("uncertain",) * 2, (0.3, 0.2): ("absent", "absent")}
    for row, (x, y) in states.items():
        expected = {"set_x": x, "set_y": y, "abstain": x == "uncertain"}
        assert plain.columns(np.array(row), FINDINGS) == expected


def test_coverage_is_counted_by_class() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5], [0.1, 0.9]])
    scores = Scores(BINARY, p, np.array([0, 0, 0, 1, 1, 1]), np.arange(6))
    sets = ConformalSets(0.9, {"well": 0.55, "ill": 0.35})
    found = measure_coverage(scores, [(np.ones(6, bool), sets)], np.array([1, 0, 0, 0, 0, 0], bool))
    well, ill = found.classes
    assert (well.name, well.n, well.covered, well.decided, well.right) == ("well", 3, 2 / 3, 2, 0.5)
    assert (ill.n, ill.covered, ill.decided, ill.right) == (3, 1.0, 3, 1.0)
    assert ill.low == pytest.approx(0.025 ** (1 / 3)), "Clopper and Pearson"
    assert ill.high == 1
    assert (found.all.n, found.all.covered, found.mean_size, found.abstained) == (6, 5 / 6, 7 / 6, 1 / 6)
    assert found.unusual == 1 / 6
    strict, loose = ConformalSets(0.9, {"well": 1, "ill": 1}), ConformalSets(0.9, {"well": 0, "ill": 1})
    twice = measure_coverage(scores, [(np.arange(6) < 3, sets), (np.arange(6) >= 3, strict)])
    assert [row.covered for row in twice.classes] == [2 / 3, 0], "each row has the sets of its fold"
    sentences = measure_coverage(scores, [(np.ones(6, bool), loose)]).sentences()
    assert sentences[-1] == "Too few validation patients, so in every set: well."


def test_coverage_of_findings_leaves_out_unknown_truths() -> None:
    p = np.array([[0.9, 0.2], [0.5, 0.6], [0.1, 0.9]])
    truth = np.array([[1, np.nan], [0, 1], [0, 1]])
    sets = ConformalSets(0.9, {"x": 0.45, "y": 0.7}, {"x": 0.45, "y": 0.7})
    found = measure_coverage(Scores(FINDINGS, p, truth, np.array([0, 1, 1])), [(np.ones(3, bool), sets)])
    rows = found.rows()
    assert rows["y, absent"].n == 0
    assert math.isnan(rows["y, absent"].covered)
    assert (rows["x, absent"].n, rows["x, absent"].covered, rows["x, absent"].decided) == (2, 1.0, 1)
    assert (rows["y, present"].covered, rows["y, present"].decided, rows["y, present"].patients) == (1.0, 1, 1)
    assert (found.all.n, found.all.patients) == (5, 2)
    assert found.mean_size == pytest.approx(2 / 6), "uncertain findings"
    assert found.abstained == pytest.approx(1 / 3)
