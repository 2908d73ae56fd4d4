import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from softfree.evaluation.scores import Scores
from softfree.evaluation.thresholds import choose_thresholds
from softfree_runtime.core.task import Task


def threshold(y: list[int], p: list[float]) -> float:
    score = np.array(p)
    scores = Scores(Task("binary", ("well", "ill")), np.stack([1 - score, score], 1), np.array(y), np.arange(len(y)))
    found = choose_thresholds(scores)
    assert list(found) == ["ill"]
    return found["ill"]


def test_by_hand() -> None:
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
def test_samples_that_cannot_tell(y: list[int], p: list[float]) -> None:
    assert threshold(y, p) == 0.5


def test_neighbors_one_rounding_step_apart() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    found = threshold([0, 1], [low, high])
    assert low < found <= high


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_none_is_better(drawn: list[tuple[int, int]]) -> None:
    y, p = [a for a, _ in drawn], [b / 20 for _, b in drawn]
    if len(set(y)) < 2:
        return
    call = np.array(p) >= threshold(y, p)
    truth = np.array(y) == 1
    index = call[truth].mean() - call[~truth].mean()
    false, true, _ = roc_curve(y, p)
    best = (true - false).max()
    assert index == pytest.approx(best) or best == 0


def test_each_finding_has_its_own() -> None:
    targets = np.array([[0, np.nan], [1, 0], [np.nan, 1]])
    p = np.array([[0.2, 0.9], [0.6, 0.1], [0.9, 0.3]])
    found = choose_thresholds(Scores(Task("multilabel", ("x", "y")), p, targets, np.arange(3)))
    assert found == {"x": pytest.approx(0.4), "y": pytest.approx(0.2)}
