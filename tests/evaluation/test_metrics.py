import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from softfree.evaluation import metrics
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.scores import Scores
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
THREE = Task("multiclass", ("a", "b", "c"))
FINDINGS = Task("multilabel", ("x", "y"))
TASKS = (BINARY, THREE, FINDINGS)


def draw(task: Task, n: int = 80, seed: int = 0, images: int = 1) -> Scores:
    """Scores that know something, unknown truths among the findings, ``images`` of each patient."""
    rng = np.random.default_rng(seed)
    patients = np.arange(n) // images
    classes = len(task.classes)
    if task.exclusive:
        targets = rng.integers(0, classes, n)
        logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[targets]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    else:
        p = rng.random((n, classes))
        targets = (rng.random(p.shape) < p).astype(float)
        targets[rng.random(p.shape) < 0.2] = np.nan
    return Scores(task, p, targets, patients)


def test_binary_values_are_scikit_learns() -> None:
    scores = draw(BINARY)
    y, p = scores.targets, scores.probabilities[:, 1]
    call = p >= 0.4
    metrics = measure(scores, {"ill": 0.4}, num_bootstrap=200)
    expected = {
        "auroc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "accuracy": sk.accuracy_score(y, call),
        "balanced_accuracy": sk.balanced_accuracy_score(y, call),
        "sensitivity/ill": sk.recall_score(y, call),
        "specificity/ill": sk.recall_score(y, call, pos_label=0),
        "ppv/ill": sk.precision_score(y, call),
        "npv/ill": sk.precision_score(y, call, pos_label=0),
        "f1": sk.f1_score(y, call),
        "mcc": sk.matthews_corrcoef(y, call),
        "kappa": sk.cohen_kappa_score(y, call),
        "brier": sk.brier_score_loss(y, p),
    }
    assert {name: metrics[name].value for name in expected} == pytest.approx(expected)
    assert set(metrics) == {*expected, "ece"}
    assert next(iter(metrics)) == "auroc"
    assert (metrics["auroc"].n, metrics["auroc"].n_positive) == (80, y.sum())
    assert (metrics["sensitivity/ill"].n, metrics["specificity/ill"].n) == (y.sum(), 80 - y.sum())
    assert metrics["sensitivity/ill"].method == "at probability 0.4 and above; Wilson"
    assert (metrics["ppv/ill"].n, metrics["ppv/ill"].n_positive) == (call.sum(), (y == 1)[call].sum())
    assert metrics["ppv/ill"].method == "at probability 0.4 and above; Wilson"
    assert metrics["f1"].low < metrics["f1"].value < metrics["f1"].high


def test_multiclass_values_are_scikit_learns() -> None:
    scores = draw(THREE)
    y, p = scores.targets, scores.probabilities
    metrics = measure(scores, None, num_bootstrap=200)
    assert metrics["auroc"].value == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert metrics["average_precision"].value == pytest.approx(sk.average_precision_score(np.eye(3)[y], p))
    assert metrics["accuracy"].value == pytest.approx(sk.accuracy_score(y, p.argmax(1)))
    assert metrics["balanced_accuracy"].value == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1)))
    assert metrics["f1"].value == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"))
    assert metrics["mcc"].value == pytest.approx(sk.matthews_corrcoef(y, p.argmax(1)))
    assert metrics["kappa"].value == pytest.approx(sk.cohen_kappa_score(y, p.argmax(1)))
    assert metrics["brier"].value == pytest.approx(((np.eye(3)[y] - p) ** 2).sum(1).mean())
    for k, name in enumerate("abc"):
        assert metrics[f"auroc/{name}"].value == pytest.approx(sk.roc_auc_score(y == k, p[:, k]))
        assert metrics[f"sensitivity/{name}"].value == pytest.approx(sk.recall_score(y == k, p.argmax(1) == k))
        assert metrics[f"specificity/{name}"].value == pytest.approx(sk.recall_score(y != k, p.argmax(1) != k))


def test_multilabel_values_are_means_over_known_truths() -> None:
    scores = draw(FINDINGS)
    metrics = measure(scores, {"x": 0.3, "y": 0.6}, num_bootstrap=200)
    for k, (name, threshold) in enumerate((("x", 0.3), ("y", 0.6))):
        known = ~np.isnan(scores.targets[:, k])
        y, p = scores.targets[known, k], scores.probabilities[known, k]
        expected = {
            "auroc": sk.roc_auc_score(y, p),
            "average_precision": sk.average_precision_score(y, p),
            "sensitivity": sk.recall_score(y, p >= threshold),
            "specificity": sk.recall_score(y, p >= threshold, pos_label=0),
            "accuracy": sk.accuracy_score(y, p >= threshold),
            "f1": sk.f1_score(y, p >= threshold),
            "mcc": sk.matthews_corrcoef(y, p >= threshold),
            "brier": sk.brier_score_loss(y, p),
        }
        assert {s: metrics[f"{s}/{name}"].value for s in expected} == pytest.approx(expected)
        assert metrics[f"auroc/{name}"].n == known.sum()
    for statistic in ("auroc", "average_precision", "accuracy", "brier", "ece"):
        parts = [metrics[f"{statistic}/{name}"].value for name in "xy"]
        assert metrics[statistic].value == pytest.approx(np.mean(parts))
    halves = [metrics[f"{side}/{name}"].value for side in ("sensitivity", "specificity") for name in "xy"]
    assert metrics["balanced_accuracy"].value == pytest.approx(np.mean(halves))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("images", [1, 4])
def test_intervals_hold_their_values(task: Task, images: int) -> None:
    metrics = measure(draw(task, 200, images=images), None, num_bootstrap=400)
    for name, metric in metrics.items():
        if name.startswith("ece"):
            assert math.isnan(metric.low)
            assert "biased" in str(metric.reason)
            continue
        assert metric.low < metric.value < metric.high, name
        assert 0.01 < metric.high - metric.low < 0.5
        assert metric.reason is None
    wide = measure(draw(task, 200, images=images), None, num_bootstrap=400, level=0.99)
    assert all(wide[name].high >= metrics[name].high for name in metrics if not name.startswith("ece"))
    assert wide["auroc"].level == 0.99


def test_methods_follow_the_patients() -> None:
    alone, repeated = measure(draw(BINARY), None), measure(draw(BINARY, images=2), None)
    assert alone["auroc"].method == "DeLong, score interval"
    assert alone["accuracy"].method.endswith("Wilson")
    assert "auroc_delong" not in alone
    assert repeated["auroc"].method == "bootstrap over 40 patients, 2000 resamples, seed 0"
    assert repeated["accuracy"].method.endswith("bootstrap over 40 patients, 2000 resamples, seed 0")
    assert repeated["auroc_delong"].low == pytest.approx(alone["auroc"].low)
    assert "independent" in repeated["auroc_delong"].method


def test_large_tables_take_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_RESAMPLED", 160 * 300)
    repeated = draw(BINARY, images=2)  # 80 samples of 2 classes
    assert measure(repeated, None)["auroc"].method == "bootstrap over 40 patients, 300 resamples, seed 0"
    monkeypatch.setattr(metrics, "MAX_RESAMPLED", 1)
    assert "200 resamples" in measure(repeated, None)["auroc"].method
    assert "50 resamples" in measure(repeated, None, num_bootstrap=50)["auroc"].method


def test_seed() -> None:
    scores = draw(BINARY, images=2)
    once = measure(scores, None, num_bootstrap=300)
    assert repr(measure(scores, None, num_bootstrap=300)) == repr(once)
    assert measure(scores, None, seed=1, num_bootstrap=300)["auroc"].low != once["auroc"].low


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_invariances(seed: int) -> None:
    scores = draw(BINARY, 40, seed)
    order = np.random.default_rng(seed).permutation(40)
    metrics = measure(scores, None, num_bootstrap=20)
    shuffled = measure(scores.subset(order), None, num_bootstrap=20)
    assert {n: m.value for n, m in shuffled.items()} == pytest.approx({n: m.value for n, m in metrics.items()})
    squared = scores.probabilities[:, 1] ** 2  # monotone: keeps the ranks
    powered = Scores(BINARY, np.stack([1 - squared, squared], 1), scores.targets, scores.patients)
    assert measure(powered, None, num_bootstrap=20)["auroc"] == metrics["auroc"]
    swapped = Scores(Task("binary", ("ill", "well")), scores.probabilities, 1 - scores.targets, scores.patients)
    assert measure(swapped, None, num_bootstrap=20)["auroc"].value == pytest.approx(1 - metrics["auroc"].value)


def test_perfect_scores_have_honest_intervals() -> None:
    y = np.repeat([0, 1], 20)
    p = np.linspace(0.01, 0.99, 40)
    both = np.stack([1 - p, p], 1)
    for patients in (np.arange(40), np.arange(40) // 2):
        metrics = measure(Scores(BINARY, both, y, patients), None, num_bootstrap=200)
        assert metrics["auroc"].value == metrics["accuracy"].value == metrics["sensitivity/ill"].value == 1
        for name in ("auroc", "accuracy", "sensitivity/ill"):
            assert metrics[name].low < 0.95
            assert metrics[name].high == 1
        assert metrics["average_precision"].reason == "every resample gave the same value"
    assert "each patient as one sample" in metrics["accuracy"].method
    assert metrics["accuracy"].low == pytest.approx(20 / (20 + 1.959964**2))  # Wilson for 20 of 20


def degenerate() -> dict[str, tuple[Task, np.ndarray, np.ndarray, np.ndarray]]:
    cases = {}
    rng = np.random.default_rng(0)
    for task in TASKS:
        k = len(task.classes)
        p = rng.dirichlet(np.ones(k), 6) if task.exclusive else rng.random((6, k))
        holes = p.copy()
        holes[2] = np.nan

        def truth(values: list[int], task: Task = task, k: int = k) -> np.ndarray:
            column = np.array(values)
            return column if task.exclusive else np.repeat(column[:, None], k, 1).astype(float)

        mixed = truth([0, 1, 0, 1, 0, 1])
        cases |= {
            f"{task.kind}-empty": (task, p[:0], mixed[:0], np.arange(0)),
            f"{task.kind}-one": (task, p[:1], mixed[:1], np.arange(1)),
            f"{task.kind}-two": (task, p[:2], mixed[:2], np.arange(2)),
            f"{task.kind}-no-positive": (task, p, truth([0] * 6), np.arange(6)),
            f"{task.kind}-no-negative": (task, p, truth([1] * 6), np.arange(6)),
            f"{task.kind}-constant": (task, np.full_like(p, 1 / k), mixed, np.arange(6)),
            f"{task.kind}-hole": (task, holes, mixed, np.arange(6)),
            f"{task.kind}-all-holes": (task, np.full_like(p, np.nan), mixed, np.arange(6)),
            f"{task.kind}-one-patient": (task, p, mixed, np.zeros(6, dtype=int)),
            f"{task.kind}-certain": (task, np.eye(k)[np.arange(6) % k], mixed, np.arange(6)),
        }
    unknown = np.full((6, 2), np.nan)
    return cases | {"multilabel-unknown": (FINDINGS, rng.random((6, 2)), unknown, np.arange(6) // 2)}


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_samples_never_crash(name: str) -> None:
    task, p, targets, patients = degenerate()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = measure(Scores(task, p, targets, patients), None, num_bootstrap=50)
    assert {n.partition("/")[0] for n in metrics} >= {"auroc", "average_precision", "accuracy", "brier", "ece"}
    for metric in metrics.values():
        assert isinstance(metric, Metric)
        if math.isnan(metric.value) or math.isnan(metric.low):
            assert metric.reason
        if math.isnan(metric.value):
            assert math.isnan(metric.low)
        if not math.isnan(metric.low):
            assert metric.low <= metric.high


@pytest.mark.parametrize(
    ("name", "metric", "reason"),
    [
        ("binary-empty", "auroc", "no samples"),
        ("binary-empty", "brier", "no samples"),
        ("binary-no-positive", "auroc", "no positive among 6 samples"),
        ("binary-no-positive", "sensitivity/ill", "no positive sample"),
        ("binary-no-positive", "balanced_accuracy", "no positive sample"),
        ("binary-no-negative", "specificity/ill", "no negative sample"),
        ("binary-hole", "accuracy", "1 of 6 scores are not a number"),
        ("binary-constant", "auroc", "all scores are equal"),
        ("binary-one-patient", "brier", "too few patients: 1"),
        ("multiclass-two", "auroc", "left out for lack of samples: c"),
        ("multilabel-unknown", "ece/x", "no samples"),
    ],
)
def test_reasons(name: str, metric: str, reason: str) -> None:
    task, p, targets, patients = degenerate()[name]
    result = measure(Scores(task, p, targets, patients), None, num_bootstrap=50)[metric]
    assert reason in str(result.reason)


def test_means_name_the_classes_left_out() -> None:
    task = Task("multiclass", tuple(f"class {i}" for i in range(9)))
    rng = np.random.default_rng(0)
    scores = Scores(task, rng.dirichlet(np.ones(9), 40), np.arange(40) % 2, np.arange(40))
    metric = measure(scores, None, num_bootstrap=100)["auroc"]
    assert metric.method.startswith("mean over 2 classes")
    assert metric.reason == "left out for lack of samples: class 2, class 3, class 4, class 5, class 6 and 2 more"
    assert metric.low < metric.value < metric.high


def test_rare_class_gives_no_interval_from_resamples() -> None:
    y = np.array([1] + [0] * 30)
    p = np.linspace(0.9, 0.1, 31)
    scores = Scores(BINARY, np.stack([1 - p, p], 1), y, np.arange(31))
    metric = measure(scores, None)["average_precision"]
    assert math.isnan(metric.low)
    assert "too few patients" in str(metric.reason)


def test_threshold_for_every_class() -> None:
    with pytest.raises(UserError, match="no threshold for 'y'"):
        measure(draw(FINDINGS), {"x": 0.5})


def test_many_seeds_cover_the_truth() -> None:
    """Intervals of 95 % hold the value of a large sample in about 95 % of small ones, patients repeated."""
    large = measure(draw(BINARY, 100_000, seed=1), None, num_bootstrap=1)
    hits = dict.fromkeys(("auroc", "average_precision", "sensitivity/ill", "brier", "balanced_accuracy"), 0)
    for seed in range(100):
        small = measure(draw(BINARY, 150, seed=seed + 10, images=2), None, num_bootstrap=200)
        for name in hits:
            hits[name] += small[name].low <= large[name].value <= small[name].high
    for name, count in hits.items():
        assert 88 <= count <= 99, name
