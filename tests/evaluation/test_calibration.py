import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.metrics import roc_curve

from softfree.evaluation.calibration import choose_thresholds, ece, ece_by_chance, fit_temperature, reliability
from softfree.evaluation.scores import Scores
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
THREE = Task("multiclass", ("a", "b", "c"))
FINDINGS = Task("multilabel", ("x", "y"))
GRADES = Task("ordinal", ("a", "b", "c", "d"))


def test_probabilities() -> None:
    logits = np.array([[2.0, -1.0, 0.5]], dtype=np.float32)
    assert probabilities(logits, THREE).dtype == np.float64
    np.testing.assert_allclose(probabilities(logits, THREE, 2.0), softmax(logits / 2, axis=1), rtol=1e-6)
    assert probabilities(np.array([[1000.0, 0.0]]), BINARY).tolist() == [[1, 0]]
    np.testing.assert_allclose(probabilities(logits[:, :2], FINDINGS), expit(logits[:, :2]), rtol=1e-6)


@pytest.mark.parametrize("task", [BINARY, THREE, FINDINGS, GRADES], ids=lambda task: task.kind)
@pytest.mark.parametrize("true", [0.5, 2.0, 5.0])
def test_temperature_is_found_again(task: Task, true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, len(task.outputs))) * 3
    p = probabilities(logits, task, true)
    if task.exclusive:
        targets = (rng.random((len(p), 1)) > np.cumsum(p, 1)).sum(1)
    else:
        targets = (rng.random(p.shape) < p).astype(np.float32)
        targets[rng.random(p.shape) < 0.3] = np.nan  # unknown ones do not count
    assert fit_temperature(logits, targets, task) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("task", [THREE, GRADES], ids=lambda task: task.kind)
def test_temperature_minimizes_the_loss(task: Task) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(80, 3)) * 2
    targets = (rng.random((80, 1)) > np.cumsum(probabilities(logits, task, 1.7), 1)).sum(1)

    def loss(temperature: float) -> float:
        return -np.log(probabilities(logits, task, temperature)[np.arange(80), targets]).mean()

    best = fit_temperature(logits, targets, task)
    assert loss(best) <= min(loss(t) for t in np.geomspace(0.05, 20, 400)) + 1e-9


@pytest.mark.parametrize(
    ("logits", "targets", "task"),
    [
        (np.empty((0, 2)), np.empty(0, dtype=int), BINARY),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([1, 1]), BINARY),  # one class only
        (np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([1, 0]), BINARY),  # separated: no finite optimum
        (np.array([[1.0, np.nan], [2.0, 1.0]]), np.array([0, 1]), BINARY),
        (np.array([[1.0, np.inf], [2.0, 1.0]]), np.array([0, 1]), BINARY),
        (np.ones((2, 2)), np.full((2, 2), np.nan), FINDINGS),
    ],
)
def test_temperature_when_the_samples_cannot_tell(logits: np.ndarray, targets: np.ndarray, task: Task) -> None:
    assert fit_temperature(logits, targets, task) == 1.0


def test_temperature_stays_in_its_range() -> None:
    rng = np.random.default_rng(2)
    wrong = rng.integers(0, 2, 500)
    logits = np.stack([wrong, 1 - wrong], 1) * 9.0  # sure, and wrong
    assert fit_temperature(logits, wrong, BINARY) == pytest.approx(20, rel=1e-3)


def test_ece_by_hand() -> None:
    p = np.repeat([0.2, 0.7], 10)
    y = np.array([1] * 3 + [0] * 7 + [1] * 5 + [0] * 5)
    assert ece(y, p) == pytest.approx(0.15)
    assert np.isnan(ece(np.array([]), np.array([])))
    assert np.isnan(ece(np.array([1]), np.array([np.nan])))


def test_ece_by_chance_is_what_calibrated_models_show() -> None:
    rng = np.random.default_rng(3)
    p = expit(rng.normal(size=300))
    shown = [ece((rng.random(300) < p).astype(int), p) for _ in range(1000)]
    mean, most = ece_by_chance(p)
    assert mean == pytest.approx(np.mean(shown), rel=0.05)
    assert most == pytest.approx(np.quantile(shown, 0.95), rel=0.06)


def test_reliability() -> None:
    rng = np.random.default_rng(4)
    p = rng.random(1000)
    y = (rng.random(1000) < p).astype(int)
    table = reliability(y, p, np.arange(1000))
    assert table.n.tolist() == [100] * 10
    assert (table.low < table.observed).all()
    assert (table.observed < table.high).all()
    assert (np.abs(table.observed - table.predicted) < 0.15).all()
    assert (table.n * table.observed).sum() == pytest.approx(y.sum())
    # Ten images a patient carry no more than one: the intervals are about sqrt(10) wider than Wilson's.
    copies = reliability(np.repeat(y[:100], 10), np.repeat(p[:100], 10), np.repeat(np.arange(100), 10))
    inner = (copies.observed > 0) & (copies.observed < 1)
    assert (copies.high - copies.low)[inner].mean() > 2 * (table.high - table.low).mean()
    sure = copies[~inner]
    assert ((sure.high - sure.low) > 0.2).all()  # Wilson's over ten patients, not over a hundred images


def threshold(y: list[int], p: list[float]) -> float:
    score = np.array(p)
    scores = Scores(Task("binary", ("well", "ill")), np.stack([1 - score, score], 1), np.array(y), np.arange(len(y)))
    thresholds = choose_thresholds(scores)
    assert list(thresholds) == ["ill"]
    return thresholds["ill"]


def test_thresholds_by_hand() -> None:
    assert threshold([0, 0, 1, 1], [0.1, 0.3, 0.4, 0.8]) == pytest.approx(0.35)
    # One mistake either way: cuts at 0.25 and 0.65 are equally good, and 0.65 is nearer to 0.5.
    assert threshold([0, 1, 0, 1], [0.2, 0.3, 0.6, 0.7]) == pytest.approx(0.65)
    assert threshold([0, 1, 0, 1], [0.1, 0.7, 0.8, 0.9]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([], []),
        ([1, 1], [0.2, 0.8]),
        ([0, 1], [0.3, 0.3]),
        ([1, 0], [0.2, 0.8]),  # worse than chance: no threshold is better
        ([0, 1], [np.nan, 0.9]),
    ],
)
def test_thresholds_of_samples_that_do_not_determine_them(y: list[int], p: list[float]) -> None:
    assert threshold(y, p) == 0.5


def test_thresholds_one_rounding_step_apart() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    value = threshold([0, 1], [low, high])
    assert low < value <= high


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_threshold_is_better(drawn: list[tuple[int, int]]) -> None:
    y, p = [a for a, _ in drawn], [b / 20 for _, b in drawn]
    if len(set(y)) < 2:
        return
    call = np.array(p) >= threshold(y, p)
    truth = np.array(y) == 1
    index = call[truth].mean() - call[~truth].mean()
    false, true, _ = roc_curve(y, p)
    best = (true - false).max()
    assert index == pytest.approx(best) or best == 0


def test_each_finding_has_its_own_threshold() -> None:
    targets = np.array([[0, np.nan], [1, 0], [np.nan, 1]])
    p = np.array([[0.2, 0.9], [0.6, 0.1], [0.9, 0.3]])
    thresholds = choose_thresholds(Scores(Task("multilabel", ("x", "y")), p, targets, np.arange(3)))
    assert thresholds == {"x": pytest.approx(0.4), "y": pytest.approx(0.2)}
