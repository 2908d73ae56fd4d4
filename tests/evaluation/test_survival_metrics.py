"""Statistics of survival against their definitions in plain loops, over resamples against repeated samples."""

import math

import numpy as np
import pytest

from softfree.evaluation.comparison import compare
from softfree.evaluation.kaplan_meier import halves, kaplan_meier, log_rank, survival_at
from softfree.evaluation.metrics import measure
from softfree.evaluation.survival_metrics import auroc_at, brier_at, c_index, concordance, integrated_brier
from softfree.evaluation.times import Times, time_grid
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

TASK = Task("survival", ("days",), (100.0, 200.0))


def sample(n: int = 60, *, tied: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return log hazards and targets of exponential times, censored by others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, n)
    time, end = rng.exponential(100 / np.exp(x)), rng.exponential(150, n)
    targets = np.stack([np.minimum(time, end), time <= end], axis=1).astype(float)
    if tied:
        targets[:, 0] = np.ceil(targets[:, 0] / 40)
        x = np.round(x)
    return x, targets


def concordance_by_pairs(risks: np.ndarray, targets: np.ndarray) -> float:
    won = pairs = 0.0
    for risk, (time, event) in zip(risks, targets, strict=True):
        for other, (later, has_event) in zip(risks, targets, strict=True):
            if event and (later > time or (later == time and not has_event)):
                pairs += 1
                won += 1.0 if risk > other else 0.5 if risk == other else 0.0
    return won / pairs


def kept(targets: np.ndarray, time: float, *, before: bool) -> float:
    """Kaplan-Meier estimate not to be censored before, or until and at, a time; events come first."""
    share = 1.0
    for u in np.unique(targets[:, 0]):
        if u < time or (u == time and not before):
            censored = ((targets[:, 0] == u) & (targets[:, 1] == 0)).sum()
            at_risk = (targets[:, 0] > u).sum() + censored
            share *= 1 - censored / at_risk if at_risk else 1.0
    return share


def auroc_by_pairs(scores: np.ndarray, targets: np.ndarray, horizon: float) -> float:
    won = total = 0.0
    for score, (time, event) in zip(scores, targets, strict=True):
        if event and time <= horizon:
            weight = 1 / kept(targets, time, before=True)
            for other, (later, _) in zip(scores, targets, strict=True):
                if later > horizon:
                    total += weight
                    won += weight * (1.0 if score > other else 0.5 if score == other else 0.0)
    return won / total


def brier_by_hand(survival: np.ndarray, targets: np.ndarray, horizon: float) -> float:
    losses = []
    for p, (time, event) in zip(survival, targets, strict=True):
        if time <= horizon:
            losses.append(p**2 / kept(targets, time, before=True) if event else 0.0)
        else:
            losses.append((1 - p) ** 2 / kept(targets, horizon, before=False))
    return float(np.mean(losses))


def test_horizons_that_look_alike_are_measured_apart() -> None:
    log_hazards, targets = sample()
    targets[:, 0] *= 1e4
    rng = np.random.default_rng(0)
    times = Times(TASK, log_hazards, targets, np.arange(60), (1e6, 1e6 + 2), rng.random((60, 2)), rng.random((60, 20)))
    measured = [name for name in measure(times, None, num_bootstrap=2) if "/" in name]
    assert measured == ["auroc_at/1000000", "auroc_at/1000002", "brier_at/1000000", "brier_at/1000002"]


def test_a_risk_that_rises_with_the_hazard_is_above_chance() -> None:
    """The sign: a higher risk is an earlier event, so the true hazard has C well above 0.5, and its opposite below."""
    log_hazards, targets = sample(400)
    assert c_index(log_hazards, targets) > 0.65
    assert c_index(-log_hazards, targets) == pytest.approx(1 - c_index(log_hazards, targets))
    assert c_index(np.zeros(400), targets) == 0.5
    by_hand = np.array([[1.0, 1], [2.0, 1], [3.0, 0]])
    assert c_index(np.array([3.0, 2.0, 1.0]), by_hand) == 1
    assert c_index(np.array([1.0, 2.0, 3.0]), by_hand) == 0
    assert math.isnan(c_index(np.array([1.0, 2.0]), np.array([[1.0, 0], [2.0, 0]])))


@pytest.mark.parametrize("tied", [False, True])
def test_statistics_are_their_definitions(tied: bool) -> None:
    x, targets = sample(41, tied=tied)
    horizon = 2.0 if tied else 80.0
    survival = np.exp(-np.exp(x) * horizon / (3 if tied else 100))
    one = np.ones((1, len(x)))
    assert c_index(x, targets) == pytest.approx(concordance_by_pairs(x, targets), rel=1e-12)
    assert auroc_at(x, targets, horizon)(one)[0] == pytest.approx(auroc_by_pairs(x, targets, horizon), rel=1e-12)
    assert brier_at(survival, targets, horizon)(one)[0] == pytest.approx(
        brier_by_hand(survival, targets, horizon), rel=1e-12
    )
    both = integrated_brier(np.stack([survival, survival**0.5], 1), targets, np.array([horizon, horizon / 2]))(one)[0]
    parts = brier_by_hand(survival, targets, horizon), brier_by_hand(survival**0.5, targets, horizon / 2)
    assert both == pytest.approx(np.mean(parts), rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_repeat_samples(tied: bool) -> None:
    x, targets = sample(30, tied=tied)
    horizon = 2.0 if tied else 80.0
    weights = np.random.default_rng(3).integers(0, 3, (4, 30)).astype(float)
    survival = np.exp(-np.exp(x))
    for statistic, plain in (
        (concordance(x, targets), lambda rows: concordance_by_pairs(x[rows], targets[rows])),
        (auroc_at(x, targets, horizon), lambda rows: auroc_by_pairs(x[rows], targets[rows], horizon)),
        (brier_at(survival, targets, horizon), lambda rows: brier_by_hand(survival[rows], targets[rows], horizon)),
    ):
        expected = [plain(np.repeat(np.arange(30), row.astype(int))) for row in weights]
        np.testing.assert_allclose(statistic(weights), expected, rtol=1e-6)


def test_many_pairs_are_compared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    x, targets = sample(50)
    expected = c_index(x, targets)
    monkeypatch.setattr("softfree.evaluation.survival_metrics.MOST_PAIRS", 10)
    monkeypatch.setattr("softfree.evaluation.survival_metrics._BLOCK", 7)
    assert c_index(x, targets) == pytest.approx(expected, rel=1e-12)


def test_without_censoring_all_is_as_for_classes() -> None:
    x, targets = sample(50)
    targets[:, 1] = 1
    horizon, one = float(np.median(targets[:, 0])), np.ones((1, 50))
    happened = targets[:, 0] <= horizon
    from sklearn.metrics import brier_score_loss, roc_auc_score

    assert auroc_at(x, targets, horizon)(one)[0] == pytest.approx(roc_auc_score(happened, x))
    p = 1 / (1 + np.exp(x))
    assert brier_at(p, targets, horizon)(one)[0] == pytest.approx(brier_score_loss(~happened, p))


def test_a_kaplan_meier_curve_by_hand() -> None:
    targets = np.array([[1.0, 1], [2.0, 0], [3.0, 1], [3.0, 0], [5.0, 1]])
    curve = kaplan_meier(targets)
    assert curve.times.tolist() == [0, 1, 2, 3, 5]
    np.testing.assert_allclose(curve.survival, [1, 4 / 5, 4 / 5, 4 / 5 * 2 / 3, 0])
    np.testing.assert_allclose(survival_at(targets, np.array([0.5, 1.0, 4.9])), [1, 0.8, 0.8 * 2 / 3])
    assert (curve.at_risk, curve.events) == (5, 3)


def test_the_log_rank_test_by_hand() -> None:
    """Observed and expected events, and the hypergeometric variance, of two small groups."""
    targets = np.array([[1.0, 1], [2.0, 1], [3.0, 0], [4.0, 1], [5.0, 1], [6.0, 0]])
    high = np.array([True, True, False, True, False, False])
    observed = expected = variance = 0.0
    for time in (1, 2, 4, 5):
        at_risk, group = targets[:, 0] >= time, high & (targets[:, 0] >= time)
        n, k = at_risk.sum(), group.sum()
        observed += high[targets[:, 0] == time].sum()
        expected += k / n
        variance += k / n * (1 - k / n)
    from scipy.stats import norm

    p = 2 * norm.sf(abs(observed - expected) / math.sqrt(variance))
    assert log_rank(targets, high) == pytest.approx(p)
    assert math.isnan(log_rank(targets, np.zeros(6, bool)))
    assert halves(np.array([1.0, 2.0, 2.0, 3.0])).tolist() == [False, False, False, True]


def times(scale: float = 1.0, n: int = 150) -> Times:
    x, targets = sample(n)
    horizons = (50.0, 100.0)
    rates = np.exp(scale * x)[:, None] / 100
    curves = (np.exp(-rates * np.asarray(at)) for at in (horizons, time_grid(horizons)))
    return Times(TASK, scale * x, targets, np.arange(n) // 2, horizons, *curves)


def test_measures_have_intervals_by_patient() -> None:
    found = measure(times(), None, num_bootstrap=200)
    assert list(found) == [
        "c_index", "integrated_brier", "auroc_at/50", "auroc_at/100", "brier_at/50", "brier_at/100"
    ]  # fmt: skip
    assert all(metric.low < metric.value < metric.high for metric in found.values())
    assert "75 patients" in found["c_index"].method
    assert "one Kaplan-Meier curve for all would have" in found["integrated_brier"].method
    few = measure(times().subset(np.arange(12)), None, num_bootstrap=200)["c_index"]
    assert few.reason is not None
    assert "too few patients" in few.reason


def test_two_models_are_compared_on_the_same_patients() -> None:
    model, worse = times(), times(-0.2)
    comparison = compare(model, worse, num_bootstrap=200)
    difference = comparison.differences["c_index"]
    assert difference.value == pytest.approx(2 * c_index(model.risks, model.targets) - 1)
    assert difference.low > 0
    assert "C-index" in comparison.verdict
    assert "better" in comparison.verdict
    other = Times(TASK, worse.risks, worse.targets, worse.patients, (50.0,), worse.survival[:, :1], worse.curves)
    assert list(compare(model, other, num_bootstrap=200).differences) == ["c_index"]


def test_predictions_must_fit() -> None:
    with pytest.raises(UserError, match="expected one risk"):
        Times(TASK, np.zeros(3), np.zeros((2, 2)), np.zeros(3))
    with pytest.raises(UserError, match="not finite"):
        Times(TASK, np.zeros(1), np.array([[np.nan, 1]]), np.zeros(1))
