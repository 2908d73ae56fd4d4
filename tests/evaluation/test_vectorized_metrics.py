import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from softfree.evaluation import vectorized_metrics as weighted

drawn_samples = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.integers(0, 6), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)


@given(drawn_samples)
@settings(max_examples=100, deadline=None)
def test_ranking_is_scikit_learns_on_the_repeated_samples(drawn: tuple[list[int], list[int], list[int]]) -> None:
    y, score, times = np.array(drawn[0]), np.array(drawn[1]) / 6, np.array(drawn[2])
    area = weighted.auroc(y, score)(times[None].astype(float))[0]
    precision = weighted.average_precision(y, score)(times[None].astype(float))[0]
    repeated, repeated_score = np.repeat(y, times), np.repeat(score, times)
    if repeated.sum() == 0:
        assert np.isnan(precision)
    else:
        assert precision == pytest.approx(average_precision_score(repeated, repeated_score), abs=1e-12)
    if len(np.unique(repeated)) < 2:
        assert np.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(repeated, repeated_score), abs=1e-12)


def test_means() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 50), rng.random(50)
    ones = np.ones((1, 50))
    assert weighted.mean((p - y) ** 2)(ones)[0] == pytest.approx(brier_score_loss(y, p))
    hits = np.where(y == 1, p > 0.5, np.nan)
    assert weighted.mean(hits)(ones)[0] == pytest.approx(recall_score(y, p > 0.5))
    assert np.isnan(weighted.mean(hits)((y == 0)[None].astype(float))[0])


def test_on_takes_its_rows() -> None:
    rows = np.array([True, False, True, True])
    seen = weighted.on(rows, lambda weights: weights.sum(1))(np.array([[1.0, 10, 2, 0]]))
    assert seen[0] == 3


def test_calibration_error_by_hand() -> None:
    # 20 samples make two bins of ten: 0.2 with 3 positives, 0.7 with 5: errors 0.1 and 0.2, mean 0.15.
    p = np.repeat([0.2, 0.7], 10)
    y = np.array([1] * 3 + [0] * 7 + [1] * 5 + [0] * 5)
    error = weighted.calibration_error(y, p)
    assert error(np.ones((1, 20)))[0] == pytest.approx(0.15)
    first_only = np.repeat([1.0, 0.0], 10)[None]
    assert error(first_only)[0] == pytest.approx(0.1)


def test_bins_hold_equal_numbers_and_keep_ties_together() -> None:
    assert np.bincount(weighted.equal_mass_bins(np.random.default_rng(0).random(200))).tolist() == [20] * 10
    assert len(np.unique(weighted.equal_mass_bins(np.full(200, 0.4)))) == 1
    assert weighted.equal_mass_bins(np.array([])).size == 0
    assert [weighted.bins_for(n) for n in (1, 19, 20, 55, 99, 100, 10_000)] == [1, 1, 2, 5, 9, 10, 10]


@given(drawn_samples)
@settings(max_examples=100, deadline=None)
def test_agreement_is_scikit_learns_on_the_repeated_samples(drawn: tuple[list[int], list[int], list[int]]) -> None:
    truth, called, times = np.array(drawn[1]) % 4, (np.array(drawn[1]) + drawn[0]) % 4, np.array(drawn[2])
    weights, repeated, predicted = times[None].astype(float), np.repeat(truth, times), np.repeat(called, times)
    kappa = weighted.kappa(truth, called, 4)(weights)[0]
    quadratic = weighted.kappa(truth, called, 4, quadratic=True)(weights)[0]
    correlation = weighted.matthews(truth, called, 4)(weights)[0]
    f1 = weighted.f1(truth == 1, called == 1)(weights)[0]
    if len({*repeated, *predicted}) < 2:
        assert np.isnan([kappa, quadratic]).all()
    else:
        assert kappa == pytest.approx(cohen_kappa_score(repeated, predicted), abs=1e-12)
        expected = cohen_kappa_score(repeated, predicted, weights="quadratic", labels=range(4))
        assert quadratic == pytest.approx(expected, abs=1e-12)
    if min(len(np.unique(repeated)), len(np.unique(predicted))) < 2:
        assert np.isnan(correlation)  # scikit-learn says 0
    else:
        assert correlation == pytest.approx(matthews_corrcoef(repeated, predicted), abs=1e-12)
    if not ((repeated == 1) | (predicted == 1)).any():
        assert np.isnan(f1)
    else:
        assert f1 == pytest.approx(f1_score(repeated == 1, predicted == 1, zero_division=0), abs=1e-12)


def test_predictive_values_at_the_prevalence_of_the_samples_are_the_usual_ones() -> None:
    rng = np.random.default_rng(1)
    truth, called = rng.random(200) < 0.3, rng.random(200) < 0.4
    prevalence, ones = truth.mean(), np.ones((1, 200))
    positive = weighted.predictive_value(truth, called, prevalence, positive=True)(ones)[0]
    negative = weighted.predictive_value(truth, called, prevalence, positive=False)(ones)[0]
    assert positive == pytest.approx(precision_score(truth, called))
    assert negative == pytest.approx(precision_score(~truth, ~called))
    # A test of sensitivity 0.9 and specificity 0.95 for a disease of 1 in 1,000 finds 1 ill in 56.5 positives.
    truth, called = np.repeat([True, False], [10, 100]), np.repeat([True, False, True, False], [9, 1, 5, 95])
    rare = weighted.predictive_value(truth, called, 0.001, positive=True)(np.ones((1, 110)))[0]
    assert rare == pytest.approx(0.0009 / (0.0009 + 0.999 * 0.05))
    assert confusion_matrix(truth, called).tolist() == [[95, 5], [1, 9]]
