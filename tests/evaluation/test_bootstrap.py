import time

import numpy as np
import pytest

from softfree.evaluation import bootstrap
from softfree.evaluation import vectorized_metrics as weighted
from softfree.evaluation.intervals import bias_corrected
from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree_runtime.core.task import Task


def test_patients_are_drawn_whole() -> None:
    patients = np.array([7, 7, 3, 9, 3, 7])
    weights = np.concatenate(list(bootstrap.patient_weights(patients, num_bootstrap=500, seed=1)))
    assert weights.shape == (500, 6)
    for group in ([0, 1, 5], [2, 4]):
        assert (weights[:, group] == weights[:, group[:1]]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()  # as many patients as there are
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.15)


def test_seed_decides_and_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = np.arange(31)

    def draw(seed: int) -> np.ndarray:
        return np.concatenate(list(bootstrap.patient_weights(patients, num_bootstrap=101, seed=seed)))

    once = draw(0)
    assert (draw(0) == once).all()
    assert (draw(1) != once).any()
    monkeypatch.setattr(bootstrap, "_ELEMENTS", 200)
    assert (draw(0) == once).all()


def test_distribution_is_that_of_drawn_samples() -> None:
    rng = np.random.default_rng(4)
    y, score, patients = rng.integers(0, 2, 40), rng.random(40), rng.integers(0, 15, 40)
    result = bootstrap.distribution({"auroc": weighted.auroc(y, score)}, patients, num_bootstrap=50, seed=2)["auroc"]
    weights = np.concatenate(list(bootstrap.patient_weights(patients, num_bootstrap=50, seed=2)))
    for value, times in zip(result, weights.astype(int), strict=True):
        x, z = np.repeat(score[y == 1], times[y == 1]), np.repeat(score[y == 0], times[y == 0])
        assert value == pytest.approx(((x[:, None] > z) + 0.5 * (x[:, None] == z)).mean())


def clustered(rng: np.random.Generator, patients: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of one patient share their class and most of their score: AUROC Phi(1 / sqrt 2) = 0.7602."""
    y = np.repeat(rng.integers(0, 2, patients), images)
    own = rng.normal(size=(patients, 1)) * np.sqrt(0.9) + rng.normal(size=(patients, images)) * np.sqrt(0.1)
    return y, own.ravel() + y, np.repeat(np.arange(patients), images)


def test_coverage_needs_patients() -> None:
    rng = np.random.default_rng(5)
    hits = {"patients": 0, "images": 0}
    for seed in range(200):
        y, score, patients = clustered(rng, 40, 5)
        for unit, groups in (("patients", patients), ("images", np.arange(len(y)))):
            statistic = {"": weighted.auroc(y, score)}
            draws = bootstrap.distribution(statistic, groups, num_bootstrap=300, seed=seed)[""]
            value = statistic[""](np.ones((1, len(y))))[0]
            low, high, *_ = bias_corrected(value, draws, 0.95, "")
            hits[unit] += low <= 0.7602 <= high
    assert 0.9 <= hits["patients"] / 200 <= 0.99
    assert hits["images"] / 200 < 0.75  # taking images for independent claims far too much


def test_fast_enough() -> None:
    rng = np.random.default_rng(6)
    y, score, patients = clustered(rng, 500, 2)
    p = 1 / (1 + np.exp(-score))
    scores = Scores(Task("binary", ("well", "ill")), np.stack([1 - p, p], 1), y, patients)
    start = time.process_time()
    measure(scores, None, num_bootstrap=1000)
    assert time.process_time() - start < 5
