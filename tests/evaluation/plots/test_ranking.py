import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from softfree.evaluation.plots import precision_recall, roc
from softfree.evaluation.plots.ranking import GRID, roc_band
from softfree.evaluation.scores import Scores
from softfree_runtime.core.task import Task


def scores(classes: int = 2, n: int = 120) -> Scores:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kind = "binary" if classes == 2 else "multiclass"
    return Scores(Task(kind, tuple(f"class {i}" for i in range(classes))), p, y, np.arange(n))


def drawn(figure, label: str):
    lines = figure.axes[0].get_lines()
    return next(line for line in lines if str(line.get_label()).startswith(label))


def test_area_under_the_drawn_curves() -> None:
    known = scores()
    y, p, _ = known.one_vs_rest(1)
    x, height = drawn(roc(known), "class 1").get_data()
    assert np.trapezoid(height, x) == pytest.approx(roc_auc_score(y, p))
    recall, precision = drawn(precision_recall(known), "class 1").get_data()
    assert recall[0] == 0
    assert recall[-1] == 1
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(average_precision_score(y, p))  # steps-pre


def test_band_holds_the_curve_and_narrows() -> None:
    widths = []
    for n in (60, 2000):
        y, p, patients = scores(n=n).one_vs_rest(1)
        low, high = roc_band(y, p, patients, seed=0, num_bootstrap=200, level=0.95)
        x, height = drawn(roc(scores(n=n)), "class 1").get_data()
        inside = np.interp(GRID, x, height)
        assert (low <= inside + 1e-9).mean() > 0.95
        assert (inside <= high + 1e-9).mean() > 0.95
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 3


def test_band_of_equal_scores_is_the_diagonal() -> None:
    low, high = roc_band(np.array([0, 1] * 20), np.full(40, 0.5), np.arange(40), seed=0, num_bootstrap=50, level=0.95)
    np.testing.assert_allclose(low, GRID, atol=1e-12)
    np.testing.assert_allclose(high, GRID, atol=1e-12)


def test_too_many_classes_for_colors() -> None:
    many = scores(12, 400)
    lines = [line for line in roc(many).axes[0].get_lines() if len(line.get_xdata()) > 2]
    assert len(lines) == 12
    named = [str(line.get_label()) for line in lines if not str(line.get_label()).startswith("_")]
    assert len(named) == 3
    areas = sorted(roc_auc_score(many.targets == k, many.probabilities[:, k]) for k in range(12))
    assert [float(name.rsplit(" ", 1)[1]) for name in named] == pytest.approx(areas[:3], abs=6e-4)


@pytest.mark.filterwarnings("error")
def test_nothing_to_draw() -> None:
    known = scores()
    one_class = Scores(known.task, known.probabilities, np.ones(120, dtype=int), known.patients)
    for draw in (roc, precision_recall):
        for degenerate in (one_class, known.subset(np.arange(0))):
            assert "no curve" in draw(degenerate).axes[0].texts[0].get_text()


def test_long_curves_are_thinned() -> None:
    assert len(drawn(roc(scores(n=20_000), num_bootstrap=2), "class 1").get_xdata()) <= 400
