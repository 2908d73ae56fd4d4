import math

import numpy as np
import pytest

from softfree.evaluation.learning_curve import PowerLaw, fit, summarize
from softfree.evaluation.plots import svg
from softfree.evaluation.plots.sizes import scores_by_size

SIZES = np.array([20.0, 40, 80, 160, 320])


def measured(law: PowerLaw, draws: int = 5, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return law(SIZES) + noise * rng.normal(size=(draws, len(SIZES)))


def test_a_power_law_is_found_again() -> None:
    law = PowerLaw(0.92, 1.1, 0.55)
    fitted = fit(SIZES, measured(law))
    assert fitted is not None
    assert (fitted.law.a, fitted.law.b, fitted.law.c) == pytest.approx((law.a, law.b, law.c), rel=1e-3)
    assert fitted.predict(1280).mean == pytest.approx(law(1280), abs=1e-4)


def test_the_interval_of_an_extrapolation_contains_the_truth_about_as_often_as_it_says() -> None:
    law, hits = PowerLaw(0.92, 1.1, 0.55), 0
    for seed in range(12):
        fitted = fit(SIZES, measured(law, draws=8, noise=0.02, seed=seed), seed=seed)
        assert fitted is not None
        predicted = fitted.predict(640)
        assert predicted.low < predicted.mean < predicted.high
        hits += predicted.low <= law(640) <= predicted.high
    assert hits >= 9


def test_sizes_are_weighted_by_their_spread() -> None:
    scores = measured(PowerLaw(0.9, 1.0, 0.5), draws=4)
    scores[:, 2] += np.array([-0.3, 0.3, -0.28, 0.34])  # one size that says little
    fitted = fit(SIZES, scores)
    assert fitted is not None
    assert float(fitted.law(320.0)) == pytest.approx(scores[:, -1].mean(), abs=2e-3)


def test_few_sizes_or_draws_give_no_curve_or_no_interval() -> None:
    scores = measured(PowerLaw(0.9, 1.0, 0.5), draws=2, noise=0.01)
    assert fit(SIZES[:3], scores[:, :3]) is None
    assert fit(SIZES, np.full((2, 5), math.nan)) is None
    fitted = fit(SIZES, scores)
    assert fitted is not None
    assert math.isnan(fitted.predict(640).low)


def test_points_are_means_with_students_interval() -> None:
    scores = np.array([[0.6, 0.7], [0.7, math.nan], [0.8, 0.9]])
    first, second = summarize(np.array([10, 20]), scores)
    assert (first.patients, first.mean) == (10, pytest.approx(0.7))
    assert first.high - first.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert second.mean == pytest.approx(0.8)
    assert second.high == 1.0
    (alone,) = summarize(np.array([10]), np.array([[0.6]]))
    assert math.isnan(alone.low)


def test_the_figure_has_the_extrapolated_sizes() -> None:
    scores = measured(PowerLaw(0.9, 1.0, 0.5), noise=0.01)
    points = summarize(SIZES, scores)
    text = svg(scores_by_size(SIZES, scores, points, fit(SIZES, scores)), "curve")
    assert ">640<" in text
    assert ">1280<" in text
    assert ">640<" not in svg(scores_by_size(SIZES, scores, points, None), "curve")


def test_an_error_falls_with_more_patients() -> None:
    patients = np.array([10.0, 20.0, 40.0, 80.0])
    errors = 300 + 2000 * patients**-0.5
    draws = errors + np.random.default_rng(0).normal(0, 1, (5, 4))
    fitted = fit(patients, draws, lower=True)
    assert fitted is not None
    assert float(fitted.law(320.0)) == pytest.approx(300 + 2000 * 320**-0.5, rel=0.05)
    point = fitted.predict(160)
    assert point.low <= point.mean <= point.high
    assert summarize(patients, draws, highest=np.inf)[0].high > 1
