import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree_lab.studies.paired_bootstrap import bootstrap, mean
from softfree_runtime.core.task import Task


def scores(noise: float, seed: int = 0, classes: int = 3, truth: np.ndarray | None = None) -> Scores:
    rng = np.random.default_rng(seed)
    truth = np.arange(90) % classes if truth is None else truth
    logits = 3 * np.eye(classes)[truth] + noise * rng.standard_normal((len(truth), classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kind = "binary" if classes == 2 else "multiclass"
    return Scores(Task(kind, tuple("abc"[:classes])), p, truth, np.arange(len(truth)) // 2)


def drawn(found: Scores, seed: int = 0):
    return bootstrap(found, ["auroc"], num_bootstrap=500, seed=seed)["auroc"]


def test_value_and_interval_are_those_of_the_evaluation():
    result = scores(2.0)
    ours = drawn(result)
    theirs = measure(result, None, num_bootstrap=500)["auroc"]
    assert ours.value == pytest.approx(roc_auc_score(result.targets, result.probabilities, multi_class="ovr"))
    assert ours.interval()[:2] == (theirs.low, theirs.high)


def test_differences_on_the_same_patients_are_paired():
    good, bad = scores(2.0), scores(2.2)  # the same noise, somewhat larger
    paired = (drawn(good) - drawn(bad)).interval()
    unpaired = (drawn(good) - drawn(bad, seed=1)).interval()
    assert paired.low < drawn(good).value - drawn(bad).value < paired.high
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_a_mean_over_runs_is_taken_draw_by_draw():
    items = [drawn(scores(2.0, seed)) for seed in range(3)]
    averaged = mean(items)
    assert averaged.value == pytest.approx(np.mean([item.value for item in items]))
    np.testing.assert_allclose(averaged.replicates, np.mean([item.replicates for item in items], axis=0))
    assert averaged.interval().reason is None


def test_too_few_patients_of_a_class_give_no_interval_and_a_reason():
    result = drawn(scores(2.0, classes=2, truth=np.r_[np.zeros(40, int), 1, 1]))
    assert np.isnan(result.interval().low)
    assert "too few patients" in (result.interval().reason or "")


def test_a_class_that_is_missing_gives_no_value_and_a_reason():
    result = drawn(scores(2.0, classes=2, truth=np.zeros(10, int)))
    assert np.isnan(result.value)
    assert "no positive" in (result.interval().reason or "")
    assert (drawn(scores(2.0)) - result).interval().reason
