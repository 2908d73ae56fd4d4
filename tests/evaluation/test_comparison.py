import math

import numpy as np
import pytest
from scipy.stats import norm

from softfree.evaluation.comparison import Difference, _judge, compare
from softfree.evaluation.delong import paired_difference
from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
THREE = Task("multiclass", ("a", "b", "c"))


def pair(n: int = 200, images: int = 1, gap: float = 0.0, seed: int = 0) -> tuple[Scores, Scores]:
    """Two models that see the same signal with noise of their own; the second sees less by ``gap``."""
    rng = np.random.default_rng(seed)
    patients = np.arange(n) // images
    y = rng.integers(0, 2, n)
    common = rng.normal(size=n)
    scores = []
    for strength in (1.5, 1.5 - gap):
        p = 1 / (1 + np.exp(-(strength * y + common + 0.3 * rng.normal(size=n))))
        scores.append(Scores(BINARY, np.stack([1 - p, p], 1), y, patients))
    return scores[0], scores[1]


def test_binary_is_paired_delong() -> None:
    a, b = pair()
    result = compare(a, b, margin=0.05).differences["auroc"]
    expected = paired_difference(a.targets, a.probabilities[:, 1], b.probabilities[:, 1])
    assert (result.value, result.low, result.high, result.p) == (
        expected.difference, expected.low, expected.high, expected.p)  # fmt: skip
    assert result.method == "paired DeLong, score interval"
    assert (result.n, result.n_positive) == (200, a.targets.sum())


def test_repeated_patients_are_resampled_for_both() -> None:
    a, b = pair(images=4)
    comparison = compare(a, b, margin=0.05)
    assert comparison.differences["auroc"].method.startswith("paired bootstrap over patients")
    difference = comparison.differences["auroc"]
    assert (difference.p < 0.05) == (difference.low > 0 or difference.high < 0)
    assert comparison.differences["auroc_delong"].method.endswith("as independent")
    # Paired: far narrower than the interval of either.
    width = comparison.differences["auroc"].high - comparison.differences["auroc"].low
    one = measure(a, None)["auroc"]
    assert width < 0.6 * (one.high - one.low)
    assert repr(compare(a, b, margin=0.05)) == repr(comparison)


def test_bootstrap_agrees_with_delong_where_both_hold() -> None:
    a, b = pair(400, gap=0.3)
    by_delong = compare(a, b).differences["auroc"]
    numbers = np.append(np.arange(399), 0)  # one patient twice: hardly different, but resampled
    again = [Scores(s.task, s.probabilities, s.targets, numbers) for s in (a, b)]
    by_bootstrap = compare(*again).differences["auroc"]
    assert by_bootstrap.value == pytest.approx(by_delong.value)
    assert by_bootstrap.low == pytest.approx(by_delong.low, abs=0.005)
    assert by_bootstrap.high == pytest.approx(by_delong.high, abs=0.005)
    assert by_delong.p < by_bootstrap.p < 0.001  # the least that 2,000 resamples can show


def test_the_p_value_of_the_bootstrap_agrees_with_delong() -> None:
    a, b = pair(400, gap=0.12)
    again = [Scores(s.task, s.probabilities, s.targets, np.append(np.arange(399), 0)) for s in (a, b)]
    p = compare(a, b).differences["auroc"].p
    assert 0.01 < p < 0.3
    assert compare(*again).differences["auroc"].p == pytest.approx(p, rel=0.3)


def test_multiclass() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 150)
    p = [rng.dirichlet(np.ones(3), 150) * 0.5 + 0.5 * np.eye(3)[y] * rng.random((150, 1)) for _ in range(2)]
    p = [q / q.sum(1, keepdims=True) for q in p]
    a, b = (Scores(THREE, q, y, np.arange(150)) for q in p)
    result = compare(a, b, margin=0.1, num_bootstrap=300).differences
    assert list(result) == ["auroc", "balanced_accuracy", "auroc/a", "auroc/b", "auroc/c"]
    parts = [result[f"auroc/{name}"].value for name in "abc"]
    assert result["auroc"].value == pytest.approx(np.mean(parts))
    assert "bootstrap" in result["auroc"].method
    assert result["auroc/a"].method == "paired DeLong, score interval"
    assert result["balanced_accuracy"].low < result["balanced_accuracy"].value < result["balanced_accuracy"].high


def test_thresholds_of_each_model() -> None:
    a, b = pair()
    result = compare(a, b, thresholds=({"ill": 0.3}, {"ill": 0.9}), num_bootstrap=100).differences["balanced_accuracy"]
    assert result.a == pytest.approx(measure(a, {"ill": 0.3}, num_bootstrap=1)["balanced_accuracy"].value)
    assert result.b == pytest.approx(measure(b, {"ill": 0.9}, num_bootstrap=1)["balanced_accuracy"].value)


@pytest.mark.parametrize(
    ("low", "high", "margin", "non_inferior", "words"),
    [
        (-0.01, 0.03, 0.02, True, "A is not inferior to B: "),
        (-0.015, -0.005, 0.02, True, "although it is worse by less than the margin"),
        (0.01, 0.03, 0.02, True, "A is better than B, and therefore not inferior"),
        (-0.03, 0.03, 0.02, False, "It is not shown that A is not inferior to B"),
        (-0.02, 0.03, 0.02, False, "It is not shown"),  # the bound itself is not above the margin
        (-0.05, -0.03, 0.02, False, "A is inferior to B"),
        (-0.01, 0.03, None, None, "does not mean that there is none"),
        (0.01, 0.03, None, None, "A ranks better than B"),
        (-0.03, -0.01, None, None, "A ranks worse than B"),
        (math.nan, math.nan, 0.02, None, "has no interval: why."),
    ],
)
def test_verdicts(low: float, high: float, margin: float | None, non_inferior: bool | None, words: str) -> None:
    reason = "why" if math.isnan(low) else None
    difference = Difference(0.9, 0.89, (low + high) / 2, low, high, math.nan, "", 10, 5, reason)
    found, verdict = _judge(difference, "auroc", margin, "A", "B")
    assert found is non_inferior
    assert words in verdict


def test_error_rate_of_non_inferiority() -> None:
    """A model that is worse by just the margin is called non-inferior in about 2.5 % of the samples."""
    margin = norm.cdf(1.5 / math.sqrt(2 * 1.09)) - norm.cdf(1.0 / math.sqrt(2 * 1.09))
    called = 0
    for seed in range(600):
        better, worse = pair(160, gap=0.5, seed=seed)
        difference = paired_difference(better.targets, worse.probabilities[:, 1], better.probabilities[:, 1])
        called += difference.low > -margin
    assert 0.005 <= called / 600 <= 0.05


def test_degenerate() -> None:
    a, _ = pair(20)
    same = compare(a, a, margin=0.01)
    assert same.non_inferior is True
    assert same.differences["auroc"].p == 1
    again = Scores(BINARY, a.probabilities, a.targets, a.patients // 2)
    same = compare(again, again, margin=0.01)
    assert same.non_inferior is True
    assert same.differences["auroc"].reason == "both give the same probabilities"
    none = Scores(BINARY, a.probabilities, np.zeros(20, dtype=int), a.patients)
    verdict = compare(none, none, margin=0.01)
    assert verdict.non_inferior is None
    assert "no positive among 20 samples" in verdict.verdict
    holes = Scores(BINARY, np.full((20, 2), np.nan), a.targets, a.patients)
    assert compare(a, holes, margin=0.01).non_inferior is None
    empty = a.subset(np.arange(0))
    assert compare(empty, empty).non_inferior is None


def test_samples_must_be_the_same() -> None:
    a, b = pair()
    other = Task("binary", ("well", "sick"))
    for wrong, words in (
        (b.subset(np.arange(100)), "200 and 100 samples"),
        (Scores(other, b.probabilities, b.targets, b.patients), "same classes in the same order"),
        (b.subset(np.arange(200)[::-1]), "different truths in row"),
        (Scores(BINARY, b.probabilities, b.targets, b.patients // 2), "grouped into patients differently"),
    ):
        with pytest.raises(UserError, match=words):
            compare(a, wrong)
    renumbered = Scores(BINARY, b.probabilities, b.targets, b.patients + 1000)
    assert compare(a, renumbered).differences["auroc"] == compare(a, b).differences["auroc"]
    for margin in (0.0, -0.1, 2.0, math.nan):
        with pytest.raises(UserError, match="margin"):
            compare(a, b, margin=margin)
