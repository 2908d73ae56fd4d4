import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from sklearn.metrics import roc_auc_score

from softfree.evaluation.delong import PairedAuroc, auroc, paired_difference, placements
from softfree.evaluation.intervals import hanley_mcneil, newcombe

GOLDENS = Path(__file__).parent / "goldens"
PROC = json.loads((GOLDENS / "proc.json").read_text())
CASES = [name for name in PROC if name not in ("proc", "r")]
SCORES = pd.read_csv(GOLDENS / "scores.csv")


def case(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = SCORES[SCORES["case"] == name]
    return rows["y"].to_numpy(), rows["a"].to_numpy(), rows["b"].to_numpy()


def placements_by_pairs(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paper's definition, over all pairs of a positive and a negative."""
    x, z = score[y == 1], score[y == 0]
    wins = (x[:, None] > z) + 0.5 * (x[:, None] == z)  # (m, n)
    return wins.mean(1), wins.mean(0)


@pytest.mark.parametrize("name", CASES)
def test_proc(name: str) -> None:
    y, a, b = case(name)
    golden = PROC[name]
    for column, score in (("a", a), ("b", b)):
        estimate = auroc(y, score, kind="wald")
        assert estimate.value == pytest.approx(golden[f"auc_{column}"], abs=1e-12)
        assert estimate.variance == pytest.approx(golden[f"var_{column}"], rel=1e-10)
        assert estimate.low == pytest.approx(golden[f"low_{column}"], abs=1e-10)
        assert estimate.high == pytest.approx(golden[f"high_{column}"], abs=1e-10)
    pair = paired_difference(y, a, b, kind="wald")
    assert pair.z == pytest.approx(golden["z"], rel=1e-9)
    assert pair.p == pytest.approx(golden["p"], rel=1e-8)
    assert pair.low == pytest.approx(golden["difference_low"], abs=1e-10)
    assert pair.high == pytest.approx(golden["difference_high"], abs=1e-10)


def test_by_hand() -> None:
    # Positives 3, 1; negatives 2, 0: three of four pairs are right. V10 = 1, 1/2; V01 = 1/2, 1: both variances 1/8.
    estimate = auroc(np.array([1, 1, 0, 0]), np.array([3.0, 1, 2, 0]), kind="wald")
    assert estimate.value == 0.75
    assert estimate.variance == pytest.approx(1 / 8 / 2 + 1 / 8 / 2)
    assert estimate.high == 1.0  # cut


def test_the_score_interval_solves_its_equation() -> None:
    y, a, _ = case("rare")
    estimate = auroc(y, a)
    positives = int(y.sum())
    negatives = len(y) - positives
    ratio = estimate.variance / hanley_mcneil(estimate.value, positives, negatives)
    wrong = positives * (1 - estimate.value)
    times = ratio if ratio > 1 else ratio + (1 - ratio) / (1 + wrong / 5)
    for bound in (estimate.low, estimate.high):
        variance = times * hanley_mcneil(bound, positives, negatives)
        assert (estimate.value - bound) ** 2 == pytest.approx(1.959963984540054**2 * variance, rel=1e-5)
    wide = auroc(y, a, level=0.99)
    assert wide.low < estimate.low < estimate.high < wide.high


def test_many_samples_bring_the_score_interval_to_delongs() -> None:
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], 20_000)
    score = rng.normal(size=len(y)) + 1.5 * y
    found, plain = auroc(y, score), auroc(y, score, kind="wald")
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=2e-4)


labels_and_scores = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.integers(-5, 5), min_size=n, max_size=n),
    )
)


@given(labels_and_scores)
@settings(max_examples=100, deadline=None)
def test_placements_over_all_pairs(drawn: tuple[list[int], list[int]]) -> None:
    y, score = np.array(drawn[0]), np.array(drawn[1], dtype=float)
    if len(np.unique(y)) < 2:
        return
    for found, expected in zip(placements(y, score), placements_by_pairs(y, score), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


@given(labels_and_scores)
@settings(max_examples=100, deadline=None)
def test_invariances(drawn: tuple[list[int], list[int]]) -> None:
    y, score = np.array(drawn[0]), np.array(drawn[1], dtype=float)
    if len(np.unique(y)) < 2:
        return
    estimate = auroc(y, score)
    assert estimate.value == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    assert repr(auroc(y, np.exp(score) + 3)) == repr(estimate)  # only ranks matter; repr, for NaN is not NaN
    swapped = auroc(1 - y, score)
    assert swapped.value == pytest.approx(1 - estimate.value, abs=1e-12)
    assert swapped.variance == pytest.approx(estimate.variance, abs=1e-12, nan_ok=True)
    mirrored = auroc(y, -score)
    assert mirrored.low == pytest.approx(1 - estimate.high, abs=1e-9, nan_ok=True)
    if not math.isnan(estimate.low):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_a_million_samples() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1_000_000)
    score = (rng.normal(size=len(y)) + y).round(3)  # with ties
    estimate = auroc(y, score)
    assert estimate.value == pytest.approx(roc_auc_score(y, score), abs=1e-9)
    assert estimate.value == pytest.approx(0.7602, abs=0.002)  # Phi(1 / sqrt 2)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * math.sqrt(estimate.variance), rel=1e-3)
    assert 1e-7 < estimate.variance < 3e-7


@pytest.mark.parametrize(
    ("y", "score", "reason"),
    [
        ([], [], "no samples"),
        ([1, 1], [0.1, 0.2], "no negative among 2 samples"),
        ([0], [0.1], "no positive among 1 samples"),
        ([0, 1], [np.nan, 0.2], "1 of 2 scores are not a number"),
    ],
)
def test_no_value(y: list[int], score: list[float], reason: str) -> None:
    estimate = auroc(np.array(y), np.array(score))
    assert math.isnan(estimate.value)
    assert estimate.reason == reason
    pair = paired_difference(np.array(y), np.array(score), np.array(score))
    assert math.isnan(pair.difference)
    assert pair.reason == reason


def test_value_without_interval() -> None:
    one = auroc(np.array([1, 0, 0]), np.array([0.5, 0.1, 0.9]))
    assert one.value == 0.5
    assert one.reason == "an interval needs two samples of each class"
    constant = auroc(np.array([1, 0, 1, 0]), np.full(4, 0.3))
    assert constant.value == 0.5
    assert math.isnan(constant.low)
    assert constant.reason == "all scores are equal"


def test_perfect_ranking_has_an_honest_interval() -> None:
    y = np.array([0] * 10 + [1] * 10)
    estimate = auroc(y, np.arange(20.0))
    assert (estimate.value, estimate.variance, estimate.high) == (1, 0, 1)
    assert 0.7 < estimate.low < 0.9
    assert estimate.method == "Newcombe's method 5"


def test_pairs_without_spread() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    a = np.array([0.1, 0.4, 0.2, 0.3, 0.9, 0.8])
    alike = paired_difference(y, a, a**2)
    assert (alike.difference, alike.low, alike.high, alike.p) == (0, 0, 0, 1)
    both = np.array([1.0, 2, 3, 4, 5, 6]), np.array([3.0, 2, 1, 4, 6, 5])
    perfect = paired_difference(y, *both, kind="wald")
    assert perfect.difference == 0
    assert math.isnan(perfect.low)
    assert "no spread" in str(perfect.reason)
    perfect, half = paired_difference(y, *both), 1 - newcombe(1.0, 3, 3, 0.95).low
    assert (perfect.low, perfect.high, perfect.p) == (pytest.approx(-half), pytest.approx(half), 1)
    few = paired_difference(np.array([0, 0, 1]), np.array([1.0, 3, 2]), np.array([1.0, 2, 3]))
    assert few.difference == -0.5
    assert few.reason == "an interval needs two samples of each class"


def paired(rng: np.random.Generator, alike: float, areas: tuple[float, float], sizes: tuple[int, int]) -> PairedAuroc:
    """Two models, the positives of which spread twice as much as the negatives."""
    y = np.repeat([1, 0], sizes)
    noise = rng.normal(size=(2, len(y)))
    noise[1] = alike * noise[0] + math.sqrt(1 - alike**2) * noise[1]
    scores = np.where(y, 2 * noise + math.sqrt(5) * ndtri(areas)[:, None], noise)
    return paired_difference(y, scores[0], scores[1])


@pytest.mark.parametrize(
    ("areas", "sizes", "alike"),
    [
        ((0.97, 0.9), (10, 100), 0.9),
        ((0.9, 0.8), (10, 40), 0.5),
        ((0.97, 0.9), (50, 50), 0.9),
        ((0.9, 0.9), (20, 80), 0.7),
    ],
)
def test_the_interval_of_a_difference_holds(areas: tuple[float, float], sizes: tuple[int, int], alike: float) -> None:
    rng = np.random.default_rng(4)
    results = [paired(rng, alike, areas, sizes) for _ in range(200)]
    assert sum(one.low <= areas[0] - areas[1] <= one.high for one in results) >= 0.9 * 200
    for one in results:
        assert (one.p < 0.05) == (not one.low <= 0 <= one.high), "p and interval say the same"


def test_a_difference_of_many_samples_has_delongs_interval() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat([1, 0], 10_000)
    a = rng.normal(size=len(y)) + 1.5 * y
    b = a + 0.3 * rng.normal(size=len(y))
    found, plain = paired_difference(y, a, b), paired_difference(y, a, b, kind="wald")
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=2e-4)
    close = paired_difference(y, a, a + 0.02 * rng.normal(size=len(y)))
    assert abs(close.p - 2 * float(ndtr(-abs(close.z)))) < 0.05


@pytest.mark.parametrize(
    ("positives", "negatives", "spread", "truth"),
    # Positives that differ more than negatives, or are rare, or are nearly all found.
    [(20, 40, 1, 0.86), (30, 300, 1, 0.97), (30, 300, 2, 0.97), (10, 100, 2, 0.9), (50, 50, 2, 0.99), (5, 100, 1, 0.9)],
)
def test_coverage(positives: int, negatives: int, spread: float, truth: float) -> None:
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1], [negatives, positives])
    distance = float(ndtri(truth)) * math.sqrt(1 + spread**2)
    hits = 0
    for _ in range(400):
        ill = rng.normal(distance, spread, positives)
        estimate = auroc(y, np.concatenate([rng.normal(size=negatives), ill]))
        hits += estimate.low <= truth <= estimate.high
    assert 0.92 <= hits / 400 <= 0.995
