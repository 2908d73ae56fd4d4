import math

import numpy as np
import pytest
import scipy.stats

from softfree.evaluation.intervals import bias_corrected, bootstrap_p, newcombe, wilson


def test_wilson_by_hand() -> None:
    # Newcombe, Statistics in Medicine 17:857-872 (1998), table I, method 3.
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        interval = wilson(successes, trials, 0.95)
        assert interval.low == pytest.approx(low, abs=5e-5)
        assert interval.high == pytest.approx(high, abs=5e-5)
    assert wilson(0, 0, 0.95).reason == "no samples"


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (5, 5), (10, 40), (300, 30)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_newcombe_solves_its_equation(positives: int, negatives: int, level: float) -> None:
    z = {0.9: 1.6448536269514722, 0.95: 1.959963984540054}[level]
    interval = newcombe(1.0, positives, negatives, level)
    t, n = interval.low, (positives + negatives) / 2
    q1, q2 = t / (2 - t), 2 * t * t / (1 + t)
    variance = (t * (1 - t) + (n - 1) * (q1 - t * t) + (n - 1) * (q2 - t * t)) / (positives * negatives)
    assert (1 - t) ** 2 == pytest.approx(z * z * variance)
    assert interval.high == 1
    mirrored = newcombe(0.0, positives, negatives, level)
    assert (mirrored.low, mirrored.high) == (0, pytest.approx(1 - t))


def test_newcombe_narrows_with_samples() -> None:
    lows = [newcombe(1.0, n, n, 0.95).low for n in (2, 5, 10, 100, 1000)]
    assert lows == sorted(lows)
    assert lows[-1] > 0.995


def test_bias_corrected_without_bias_is_the_percentile_interval() -> None:
    draws = np.linspace(0, 1, 1001)
    interval = bias_corrected(0.5, draws, 0.95, "bootstrap")
    assert interval.low == pytest.approx(0.025, abs=1e-3)
    assert interval.high == pytest.approx(0.975, abs=1e-3)


def test_bias_corrected_moves_away_from_the_bias() -> None:
    # 69.1 % of the draws lie below 0.691 = Phi(0.5): the bounds are Phi(1 -+ 1.96) = Phi(-0.96), Phi(2.96).
    interval = bias_corrected(0.6915, np.linspace(0, 1, 100_001), 0.95, "bootstrap")
    assert interval.low == pytest.approx(0.1685, abs=1e-3)
    assert interval.high == pytest.approx(0.99846, abs=1e-3)


def test_left_out_resamples() -> None:
    draws = np.append(np.linspace(0, 1, 95), np.full(5, np.nan))
    interval = bias_corrected(0.5, draws, 0.95, "bootstrap")
    assert interval.method == "bootstrap, 5 without a class left out"
    assert not math.isnan(interval.low)
    many = bias_corrected(0.5, np.append(draws, np.full(10, np.nan)), 0.95, "bootstrap")
    assert math.isnan(many.low)
    assert many.reason == "too few patients of a class: 15 of 110 resamples lacked it"
    assert bias_corrected(1.0, np.ones(50), 0.95, "").reason == "every resample gave the same value"
    assert math.isnan(bias_corrected(1.0, np.full(50, np.nan), 0.95, "").low)


def test_few_patients_widen_an_interval_as_student_says() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, 200_000)
    plain, few = bias_corrected(0.5, draws, 0.95, ""), bias_corrected(0.5, draws, 0.95, "", patients=10)
    z = math.sqrt(10 / 9) * scipy.stats.t.ppf(0.975, 9)
    assert (few.high - few.low) / (plain.high - plain.low) == pytest.approx(z / scipy.stats.norm.ppf(0.975), rel=0.02)
    assert bias_corrected(0.5, draws, 0.95, "", patients=10**6).high == pytest.approx(plain.high, abs=1e-4)


def test_too_few_patients_have_no_interval_and_a_reason() -> None:
    interval = bias_corrected(0.5, np.linspace(0, 1, 100), 0.95, "bootstrap", patients=9)
    assert math.isnan(interval.low)
    assert interval.reason is not None
    assert "too few patients: 9" in interval.reason


@pytest.mark.parametrize("patients", [None, 12])
@pytest.mark.parametrize("value", [-0.3, 0.02, 0.1, 0.45])
def test_the_p_value_of_a_bootstrap_is_where_its_interval_meets_0(value: float, patients: int | None) -> None:
    draws = np.random.default_rng(0).gamma(9, 0.1, 20_000) - 0.9 + value
    p = bootstrap_p(value, draws, patients)
    narrower, wider = (bias_corrected(value, draws, level, "", patients=patients) for level in (0.995 - p, 1.005 - p))
    assert not narrower.low <= 0 <= narrower.high
    assert wider.low <= 0 <= wider.high


def test_a_bootstrap_without_spread_has_no_p_value() -> None:
    assert math.isnan(bootstrap_p(0.0, np.zeros(100)))
    assert math.isnan(bootstrap_p(math.nan, np.arange(100.0)))
