"""Numbers of hand-made samples, small enough to be counted."""

import math

import numpy as np
import pytest

from softfree.evaluation.metric_specs import aurocs, predict_labels, quantities, threshold_of
from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
THREE = Task("multiclass", ("a", "b", "c"))
FINDINGS = Task("multilabel", ("x", "y"))


def binary(p: list[float], targets: list[int]) -> Scores:
    ill = np.array(p)
    return Scores(BINARY, np.stack([1 - ill, ill], 1), np.array(targets), np.arange(len(p)))


def three() -> Scores:
    p = np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
    return Scores(THREE, p, np.array([0, 1, 2, 1]), np.arange(4))


def findings() -> Scores:
    p = np.array([[0.9, 0.2], [0.6, 0.8], [0.3, 0.4], [0.2, 0.1]])
    return Scores(FINDINGS, p, np.array([[1, 0], [0, 1], [1, np.nan], [0, np.nan]]), np.arange(4))


def test_binary_by_hand() -> None:
    metrics = quantities(binary([0.9, 0.4, 0.6, 0.3, 0.1], [1, 1, 0, 0, 0]))
    values = {name: quantity.value for name, quantity in metrics.items() if name != "ece"}
    assert values == pytest.approx(
        {
            "auroc": 5 / 6,
            "average_precision": (1 + 2 / 3) / 2,
            "sensitivity/ill": 1 / 2,
            "specificity/ill": 2 / 3,
            "ppv/ill": 1 / 2,
            "npv/ill": 2 / 3,
            "f1": 1 / 2,
            "mcc": (1 * 2 - 1 * 1) / 6,
            "kappa": 1 - (2 / 5) / (12 / 25),
            "balanced_accuracy": (1 / 2 + 2 / 3) / 2,
            "accuracy": 3 / 5,
            "brier": (0.01 + 0.36 + 0.36 + 0.09 + 0.01) / 5,
        }
    )
    assert metrics["balanced_accuracy"].parts == ("sensitivity/ill", "specificity/ill")
    assert metrics["balanced_accuracy"].n_positive == 2
    assert metrics["specificity/ill"].rows.tolist() == [False, False, True, True, True]


def test_grades_have_a_quadratic_kappa() -> None:
    grades = Task("multiclass", ("0", "1", "2"))
    p, targets = np.eye(3)[[0, 2, 2, 1]], np.array([0, 0, 2, 1])
    metrics = quantities(Scores(grades, p, targets, np.arange(4)))
    # Distances 0, 2, 0, 0: observed 4 / 4; expected (sum of t^2 + p^2) / 4 - 2 (3 / 4) (5 / 4).
    assert metrics["quadratic_kappa"].value == pytest.approx(1 - 1 / ((5 + 9) / 4 - 2 * 15 / 16))
    assert metrics["mcc"].value == pytest.approx((3 * 4 - (2 + 1 + 2)) / np.sqrt((16 - 6) * (16 - 6)))
    assert "quadratic_kappa" not in quantities(three())
    unsorted = Task("multiclass", ("1", "10", "2"))
    assert "quadratic_kappa" not in quantities(Scores(unsorted, p, targets, np.arange(4)))


def test_ordinal_by_hand() -> None:
    grades = Task("ordinal", ("none", "mild", "severe"))
    p = np.array([[0.6, 0.3, 0.1], [0.4, 0.25, 0.35], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])  # medians 0, 1, 2, 1
    scores = Scores(grades, p, np.array([0, 2, 2, 0]), np.arange(4))
    metrics = quantities(scores)
    assert predict_labels(scores, None).argmax(1).tolist() == [0, 1, 2, 1]
    assert metrics["mae"].value == pytest.approx((0 + 1 + 0 + 1) / 4)
    # Distances 0, 1, 0, 1: observed 2 / 4; expected (sum of t^2 + p^2) / 4 - 2 (4 / 4) (4 / 4).
    assert metrics["quadratic_kappa"].value == pytest.approx(1 - (2 / 4) / ((8 + 6) / 4 - 2))
    assert metrics["accuracy"].value == pytest.approx(1 / 2)
    # P(y > none) is 0.4, 0.6, 0.9, 0.8 of truths 0, 1, 1, 0; P(y > mild) is 0.1, 0.35, 0.7, 0.3.
    assert metrics["auroc_above/none"].value == pytest.approx(3 / 4)
    assert metrics["auroc_above/mild"].value == pytest.approx(1)
    assert metrics["auroc"].value == pytest.approx(7 / 8)
    assert metrics["auroc"].note == "mean over 2 cuts between classes"
    assert aurocs(scores)["auroc"].value == metrics["auroc"].value
    assert metrics["auroc/severe"].value == pytest.approx(1)
    measured = measure(scores, None, num_bootstrap=50)
    assert measured["auroc_above/none"].value == metrics["auroc_above/none"].value
    assert "DeLong" in measured["auroc_above/none"].method


def test_undefined_quantities_of_predicted_classes_say_why() -> None:
    metrics = quantities(binary([0.1, 0.2, 0.3], [0, 0, 0]))
    reasons = {name: metrics[name].reason for name in ("ppv/ill", "f1", "mcc", "kappa")}
    same = "all samples have, or are predicted as, one class"
    expected = {"ppv/ill": "no positive prediction", "f1": "no positive, true or predicted", "mcc": same, "kappa": same}
    assert reasons == expected
    assert all(math.isnan(metrics[name].value) for name in expected)
    assert metrics["npv/ill"].value == 1


def test_predictive_values_elsewhere() -> None:
    scores = binary([0.9, 0.4, 0.6, 0.3, 0.1], [1, 1, 0, 0, 0])  # sensitivity 1 / 2, specificity 2 / 3
    metrics = quantities(scores, prevalence=0.1)
    assert metrics["ppv_at_prevalence/ill"].value == pytest.approx(0.05 / (0.05 + 0.9 / 3))
    assert metrics["npv_at_prevalence/ill"].value == pytest.approx(0.6 / (0.6 + 0.05))
    assert metrics["ppv_at_prevalence/ill"].note == "at a prevalence of 0.1"
    with pytest.raises(UserError, match=r"got a prevalence of 2; expected a share between 0 and 1, such as 0.02"):
        quantities(scores, prevalence=2)
    with pytest.raises(UserError, match="got a prevalence for 3 classes or findings; it is for tasks of two classes"):
        quantities(three(), prevalence=0.1)


def test_the_auroc_alone_is_that_of_all() -> None:
    several = binary([0.9, 0.4, 0.6, 0.3, 0.1], [1, 1, 0, 0, 0]), three(), findings(), binary([0.5, 0.5], [1, 1])
    for scores in several:
        whole = quantities(scores)
        alone = aurocs(scores)
        assert alone.keys() == {name for name in whole if name.startswith("auroc")}
        for name, found in alone.items():
            np.testing.assert_equal(found.value, whole[name].value)
            assert (found.parts, found.reason, found.n_positive) == (
                whole[name].parts,
                whole[name].reason,
                whole[name].n_positive,
            )


def test_a_probability_at_the_threshold_is_called() -> None:
    scores = binary([0.4, 0.39], [1, 0])
    assert predict_labels(scores, {"ill": 0.4}).tolist() == [[False, True], [True, False]]
    metrics = quantities(scores, {"ill": 0.4})
    assert metrics["accuracy"].value == 1
    assert metrics["accuracy"].note == "at probability 0.4 and above"


def test_the_likeliest_of_several_classes_is_called_whatever_the_thresholds() -> None:
    expected = np.eye(3, dtype=bool)[[0, 0, 2, 1]]
    assert (predict_labels(three(), None) == expected).all()
    assert (predict_labels(three(), {"a": 0.9}) == expected).all()


def test_several_classes_by_hand() -> None:
    metrics = quantities(three())
    assert metrics["accuracy"].value == 3 / 4
    assert [metrics[f"sensitivity/{name}"].value for name in "abc"] == [1, 1 / 2, 1]
    assert metrics["specificity/a"].value == pytest.approx(2 / 3)
    assert metrics["balanced_accuracy"].value == pytest.approx(2.5 / 3)
    assert metrics["brier"].value == pytest.approx((0.38 + 0.74 + 0.14 + 0.38) / 4)
    assert metrics["auroc"].parts == ("auroc/a", "auroc/b", "auroc/c")


def test_unknown_findings_do_not_count() -> None:
    metrics = quantities(findings(), {"x": 0.5, "y": 0.5})
    assert metrics["accuracy/x"].value == 1 / 2
    assert metrics["accuracy/y"].value == 1
    assert metrics["accuracy"].value == 3 / 4
    assert metrics["auroc/y"].rows.tolist() == [True, True, False, False]
    assert metrics["balanced_accuracy"].value == pytest.approx((1 / 2 + 1 / 2 + 1 + 1) / 4)


@pytest.mark.parametrize("scores", [binary([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0]), three(), findings()])
def test_a_statistic_gives_the_value_and_follows_the_weights(scores: Scores) -> None:
    with_form = {name: q for name, q in quantities(scores).items() if q.statistic is not None}
    assert {name.partition("/")[0] for name in with_form} >= {"auroc", "average_precision", "accuracy", "sensitivity"}
    twice = quantities(scores.subset(np.array([0, 0, 1, 2, 3])))
    for name, quantity in with_form.items():
        assert quantity.statistic is not None
        drawn = quantity.statistic(np.array([[1.0, 1, 1, 1], [2, 1, 1, 1]]))
        assert drawn == pytest.approx([quantity.value, twice[name].value]), name


def test_what_cannot_be_measured_says_why_and_is_left_out_of_means() -> None:
    alone = quantities(binary([0.2, 0.7], [0, 0]))
    assert math.isnan(alone["auroc"].value)
    assert alone["auroc"].reason == "no positive among 2 samples"
    assert alone["balanced_accuracy"].reason == "no positive sample"
    assert alone["accuracy"].value == 1 / 2
    few = quantities(three().subset(np.array([0, 1])))
    assert few["auroc"].reason == "left out for lack of samples: c"
    assert few["auroc"].parts == ("auroc/a", "auroc/b")
    assert few["balanced_accuracy"].value == 1 / 2


def test_a_class_without_a_threshold_is_refused_once_any_is_chosen() -> None:
    assert threshold_of("x", None) == 0.5
    with pytest.raises(UserError, match=r"no threshold for 'y'; got thresholds for \['x'\]"):
        quantities(findings(), {"x": 0.3})


def test_a_finding_is_measured_whatever_the_prediction_for_another_is() -> None:
    p = np.array([[0.9, np.nan], [0.2, 0.4], [0.7, 0.1], [0.1, 0.9]])
    metrics = quantities(Scores(FINDINGS, p, np.array([[1, 0], [0, 1], [1, 1], [0, 0]]), np.arange(4)))
    first, second = FINDINGS.classes
    for name in ("f1", "mcc", "kappa"):
        assert metrics[f"{name}/{first}"].value == 1
        assert math.isnan(metrics[f"{name}/{second}"].value)
