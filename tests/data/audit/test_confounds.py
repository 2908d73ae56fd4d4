import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from softfree.data.audit.confounds import FEATURES, features_of, find_confounds, hanley_mcneil
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("no", "yes"))


def test_features_by_hand():
    frame = pd.DataFrame({"width": [40], "height": [20], "file_size": [1600], "channels": [3]})
    assert dict(features_of(frame).iloc[0]) == {
        "width": 40,
        "height": 20,
        "aspect ratio": 2,
        "pixel count": 800,
        "file size": 1600,
        "bytes per pixel": 2,
        "color rather than gray": 3,
    }
    assert tuple(features_of(frame)) == FEATURES


def test_the_error_of_an_auroc_by_hand():
    # Q1 = 0.8 / 1.2, Q2 = 1.28 / 1.8: variance (0.16 + 9 (Q1 - 0.64) + 9 (Q2 - 0.64)) / 100.
    assert hanley_mcneil(0.8, 10, 10) == pytest.approx(0.0104**0.5)


def test_perfect_separation_is_not_without_error():
    assert hanley_mcneil(1.0, 10, 10) > 0
    assert hanley_mcneil(1.0, 1000, 1000) < hanley_mcneil(1.0, 10, 10)


@pytest.mark.parametrize("sign", [1, -1])
def test_area_and_direction(sign):
    rng = np.random.default_rng(0)
    targets = np.arange(200) % 2
    values = np.round(rng.normal(size=200) + 1.2 * targets * sign, 1)  # with ties
    (found,) = find_confounds(pd.DataFrame({"width": values}), BINARY, targets, np.arange(200))
    assert found.auroc == pytest.approx(roc_auc_score(targets, values * sign))
    assert found.direction == ("larger" if sign > 0 else "smaller")
    assert (found.class_name, found.feature) == ("yes", "width")
    assert 0.5 <= found.low < found.auroc < found.high <= 1
    assert found.flagged


def test_noise_and_constants_are_not_flagged():
    rng = np.random.default_rng(1)
    features = pd.DataFrame({"noise": rng.normal(size=300), "constant": np.ones(300)})
    result = find_confounds(features, BINARY, np.arange(300) % 2, np.arange(300))
    assert not any(confound.flagged for confound in result)
    assert result[-1].auroc == 0.5


def test_every_class_against_the_rest():
    targets = np.repeat([0, 1, 2], 40)
    features = pd.DataFrame({"width": np.where(targets == 1, 500.0, 100.0)})
    result = find_confounds(features, Task("multiclass", ("a", "b", "c")), targets, np.arange(120))
    assert result[0].class_name == "b"
    assert result[0].auroc == 1
    assert [confound.auroc for confound in result[1:]] == [0.75, 0.75]


def test_unknown_findings_are_left_out():
    targets = np.repeat([[1.0], [0.0], [np.nan]], 20, axis=0)
    features = pd.DataFrame({"width": np.repeat([5.0, 1.0, 9.0], 20)})
    (found,) = find_confounds(features, Task("multilabel", ("x",)), targets, np.arange(60))
    assert (found.auroc, found.direction) == (1, "larger")


def test_images_of_one_patient_count_once():
    """Ten images of each of 20 patients, all alike, are 20 films and not 200."""
    rng = np.random.default_rng(0)
    patients = np.arange(200) // 10
    targets = patients % 2
    values = pd.DataFrame({"width": (rng.normal(size=20) + 0.3 * (np.arange(20) % 2))[patients]})
    (each,) = find_confounds(values, BINARY, targets, np.arange(200))
    (whole,) = find_confounds(values, BINARY, targets, patients)
    assert each.auroc == whole.auroc
    assert whole.low == pytest.approx(max(0.5, whole.auroc - 1.96 * hanley_mcneil(whole.auroc, 10, 10)))
    assert (each.flagged, whole.flagged) == (True, False)
    assert find_confounds(values, BINARY, targets, patients // 4) == [], "too few patients for an interval"


def test_a_handful_of_images_is_not_judged():
    assert find_confounds(pd.DataFrame({"width": np.arange(18.0)}), BINARY, np.arange(18) // 9, np.arange(18)) == []
