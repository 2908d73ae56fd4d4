import numpy as np
import pytest

from softfree.evaluation.calibration import reliability as table
from softfree.evaluation.plots import confusion, decision_curve, reliability
from softfree.evaluation.plots.decisions import THRESHOLDS, net_benefit
from softfree.evaluation.scores import Scores
from softfree_runtime.core.task import Task

CLASSES = ("a", "b", "c")


def test_confusion_counts() -> None:
    counts = np.array([[5, 0, 1], [0, 3, 0], [0, 0, 0]])  # no sample of class c
    axes = confusion(counts, CLASSES).axes[0]
    words = [text.get_text() for text in axes.texts]
    assert words[::2] == [str(count) for count in counts.ravel()]
    assert words[1::2] == ["83 %", "0 %", "17 %", "0 %", "100 %", "0 %", "0 %", "0 %", "0 %"]
    assert len(axes.patches) == 3
    shades = [patch.get_alpha() for patch in axes.patches]
    assert shades[2] == max(shades)
    assert axes.get_ylabel() == "True"
    assert axes.get_xlabel() == "Predicted"


def test_confusion_of_many_classes_has_no_numbers() -> None:
    axes = confusion(np.eye(40, dtype=int), tuple(f"kind {i}" for i in range(40))).axes[0]
    assert not axes.texts
    assert len(axes.patches) == 40


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_reliability(kind: str) -> None:
    rng = np.random.default_rng(0)
    classes = CLASSES[:2] if kind == "binary" else CLASSES
    p = rng.dirichlet(np.ones(len(classes)), 200)
    targets = np.array([rng.choice(len(classes), p=row) for row in p])
    if kind == "multilabel":
        targets = np.where(rng.random(p.shape) < 0.2, np.nan, rng.random(p.shape) < p)
    scores = Scores(Task(kind, classes), p, targets, np.arange(200))
    axes, below = reliability(scores).axes
    curves = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    assert len(curves) == (3 if kind == "multilabel" else 1)
    if kind == "binary":
        expected = table(targets, p[:, 1], scores.patients)
        np.testing.assert_allclose(curves[0].get_xdata(), expected.predicted)
        np.testing.assert_allclose(curves[0].get_ydata(), expected.observed)
    if kind == "multiclass":
        right = p.argmax(1) == targets
        np.testing.assert_allclose(curves[0].get_ydata(), table(right, p.max(1), scores.patients).observed)
    known = 200 if kind != "multilabel" else (~np.isnan(targets)).sum()
    assert sum(patch.get_height() for patch in below.patches) == known
    reliability(scores.subset(np.arange(0)))
    reliability(scores.subset(np.arange(1)))


def test_net_benefit_by_hand() -> None:
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.6, 0.3, 0.1])
    curve = net_benefit(y, p)(np.ones((1, 5)))[0]
    at_a_half = np.argmin(np.abs(THRESHOLDS - 0.5))
    assert curve[at_a_half] == pytest.approx(1 / 5 - 1 / 5)  # one found, one false alarm of weight 1
    assert curve[np.argmin(np.abs(THRESHOLDS - 0.2))] == pytest.approx(2 / 5 - 2 / 5 * 0.2 / 0.8)
    drawn_twice = net_benefit(y, p)(np.array([[2.0, 0, 0, 0, 1]]))[0]
    assert drawn_twice[at_a_half] == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("error")
def test_decision_curves() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(80)
    truth = (rng.random(80) < p).astype(int)
    scores = Scores(Task("binary", CLASSES[:2]), np.stack([1 - p, p], 1), truth, np.arange(80) // 2)
    axes = decision_curve(scores).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["act on the model", "95 % band at each point", "act on everyone"]
    everyone = next(line for line in axes.get_lines() if line.get_label() == "act on everyone")
    share = truth.mean()
    np.testing.assert_allclose(everyone.get_ydata(), share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS), atol=1e-12)
    absent = Scores(Task("binary", CLASSES[:2]), np.stack([1 - p, p], 1), np.zeros(80, int), np.arange(80))
    assert decision_curve(absent).axes[0].texts[0].get_text() == "no curve: a class is absent"
