"""Errors of predicted numbers against scikit-learn and by hand, and over resamples against repeated samples."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy.stats import linregress

from softfree.evaluation.comparison import compare
from softfree.evaluation.conformal import fit_half_width
from softfree.evaluation.formatting import metrics_to_json
from softfree.evaluation.metrics import measure
from softfree.evaluation.number_report import number_page
from softfree.evaluation.report import Counts, Report
from softfree.evaluation.value_metrics import value_quantities
from softfree.evaluation.values import Values
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

VOLUME = Task("regression", ("volume",))
BY_HAND = Values(VOLUME, np.array([2.0, 4.0, 9.0]), np.array([1.0, 5.0, 6.0]), np.arange(3))


def sample(n: int = 60, noise: float = 1.0, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(1).normal(3000, 500, n)
    predicted = 2800 + 0.6 * (truth - 3000) + noise * rng.normal(0, 200, n)
    return Values(VOLUME, predicted, truth, np.arange(n) // 2, np.full(n, 300.0))


def test_by_hand() -> None:
    found = {name: item.value for name, item in value_quantities(BY_HAND).items()}
    spread = math.sqrt(((1 - 1) ** 2 + (-1 - 1) ** 2 + (3 - 1) ** 2) / 2)  # of the differences 1, -1, 3
    assert found == pytest.approx(
        {
            "mae": 5 / 3,
            "rmse": math.sqrt(11 / 3),
            "r2": 1 - 11 / 14,
            "bias": 1,
            "agreement_low": 1 - 1.959963984540054 * spread,
            "agreement_high": 1 + 1.959963984540054 * spread,
            "slope": 16 / 26,  # predictions lie -3, -1, 4 from their mean, truths -3, 1, 2 from theirs
            "intercept": 4 - 16 / 26 * 5,
        }
    )


def test_they_are_those_of_scikit_learn() -> None:
    values = sample()
    found = {name: item.value for name, item in value_quantities(values).items()}
    truth, predicted = values.targets, values.predicted
    line = linregress(predicted, truth)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, predicted))
    assert found["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(truth, predicted)))
    assert found["r2"] == pytest.approx(sk.r2_score(truth, predicted))
    assert (found["slope"], found["intercept"]) == pytest.approx((line.slope, line.intercept))
    difference = predicted - truth
    limits = difference.mean() + 1.959963984540054 * difference.std(ddof=1) * np.array([-1, 1])
    assert (found["agreement_low"], found["agreement_high"]) == pytest.approx(tuple(limits))
    assert found["interval_coverage"] == pytest.approx((np.abs(difference) <= 300).mean())


def test_a_resample_is_a_sample_with_repeats() -> None:
    values = sample(n=12)
    drawn = np.array([0, 0, 3, 3, 3, 5, 7, 8, 8, 9, 10, 11])
    weights = np.bincount(drawn, minlength=12).astype(float)[None]
    for name, item in value_quantities(values).items():
        assert item.statistic is not None
        expected = value_quantities(values.subset(drawn))[name].value
        assert item.statistic(weights)[0] == pytest.approx(expected), name


def test_large_offsets_and_small_units_cost_no_digits() -> None:
    values = sample()
    for factor, offset in ((1e-9, 0.0), (1.0, 1e9)):
        moved = Values(VOLUME, values.predicted * factor + offset, values.targets * factor + offset, values.patients)
        for name in ("slope", "r2"):
            assert value_quantities(moved)[name].value == pytest.approx(value_quantities(values)[name].value, rel=1e-5)


def test_intervals_are_over_patients_and_say_so() -> None:
    metrics = measure(sample(), None, num_bootstrap=200)
    assert list(metrics)[:4] == ["mae", "rmse", "r2", "bias"]
    assert "bootstrap over 30 patients" in metrics["mae"].method
    assert metrics["mae"].low < metrics["mae"].value < metrics["mae"].high
    assert measure(sample(), None, num_bootstrap=200, only="mae")["mae"] == metrics["mae"]
    metrics_to_json(metrics)


def test_what_is_undefined_says_why() -> None:
    flat = Values(VOLUME, np.full(20, 5.0), np.arange(20.0), np.arange(20))
    metrics = measure(flat, None, num_bootstrap=50)
    assert metrics["slope"].reason == "all predictions are equal"
    assert metrics["r2"].value <= 0
    lost = Values(VOLUME, np.array([np.nan, 1.0]), np.array([1.0, 2.0]), np.arange(2))
    assert value_quantities(lost)["mae"].reason == "1 of 2 scores are not a number"
    with pytest.raises(UserError, match="not finite"):
        Values(VOLUME, np.array([1.0]), np.array([np.inf]), np.arange(1))


def test_the_smaller_error_is_the_better_one() -> None:
    good, bad = sample(noise=0.2), sample(noise=4, seed=3)
    result = compare(good, bad, num_bootstrap=300, names=("The first", "the second"))
    assert result.differences["mae"].value < 0
    assert result.verdict.startswith("The first predicts better than the second: mean absolute error")
    assert compare(bad, good, num_bootstrap=300).verdict.startswith("The first predicts worse")
    assert compare(good, bad, margin=50, num_bootstrap=300).non_inferior is True
    assert compare(bad, good, margin=50, num_bootstrap=300).non_inferior is False
    assert compare(good, good, num_bootstrap=50).differences["mae"].p == 1


def test_intervals_of_predictions_cover_new_patients() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        error = rng.normal(size=39)
        values = Values(VOLUME, error, np.zeros(39), np.arange(39))
        width = fit_half_width(values, 0.9)
        assert width is not None
        shares.append(np.mean(np.abs(rng.normal(size=200)) <= width))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.01)
    assert fit_half_width(values.subset(np.arange(8)), 0.9) is None
    assert fit_half_width(Values(VOLUME, np.arange(9.0), np.zeros(9), np.arange(9)), 0.9) == 8


def test_the_page_has_figures_and_numbers() -> None:
    values = sample()
    report = Report(
        title="t", notice=None, task=VOLUME, data=[Counts("test", 60, 60, {"volume": "3 ± 1"})], data_notes=["a note"],
        cost={"Parameters": "1"}, metrics=measure(values, None, num_bootstrap=50), scores=values, thresholds={},
        command="softfree train", versions={"softfree": "1"},
    )  # fmt: skip
    page = number_page(report)
    titles = {section.title: section for section in page.sections}
    assert [drawing.title for drawing in titles["Figures"].drawings] == ["True against predicted", "Bland-Altman plot"]
    assert all(str(drawing.svg).startswith("<svg") for drawing in titles["Figures"].drawings)
    assert page.paragraphs[0].startswith("Mean absolute error of volume: ")
