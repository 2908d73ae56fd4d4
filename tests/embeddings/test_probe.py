"""Probes: patients stay together, and what is predicted is what scikit-learn predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.embeddings.options import ProbeOptions
from softfree.embeddings.probe import probe
from softfree.embeddings.probe_models import Training, predict_held_out
from softfree.embeddings.similar import sample_key
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task
from softfree_runtime.sources.sample_source import Case, CaseFile

QUICK = {"num_bootstrap": 50, "folds": 3}


def table(folder: Path, **columns) -> Path:
    count = len(next(iter(columns.values())))
    path = folder / "table.csv"
    paths = [f"{number}.png" for number in range(count)]
    pd.DataFrame({"path": paths, **columns}).to_csv(path, index=False)
    return path


def files(folder: Path, count: int) -> list[str]:
    return [str(folder / f"{number}.png") for number in range(count)]


def test_features_that_only_tell_the_patient_are_worth_nothing(
    write: Callable, tmp_path: Path, without_figures
) -> None:
    """Each patient has one label and a place of his own, far from others: folds by row would find all labels."""
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 3)
    labels = np.where(random.permutation(40) < 20, "well", "ill")[patients]
    vectors = 10 * random.normal(size=(40, 12))[patients] + 0.1 * random.normal(size=(120, 12))
    folder = write(tmp_path / "f", vectors, files(tmp_path, 120))
    given = table(tmp_path, label=labels, patient_id=[f"p{number}" for number in patients])
    for method in ("knn", "logistic"):
        result = probe(folder.root, given, ProbeOptions(method=method, out=tmp_path / method, **QUICK))
        assert result.metrics["auroc"].value < 0.7
    by_patient = pd.read_csv(tmp_path / "knn" / "predictions.csv").groupby("patient")["fold"].nunique()
    assert (by_patient == 1).all()


def test_features_that_tell_the_label_are_found(write: Callable, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 90)
    vectors = random.normal(size=(90, 8)) + 3 * truth[:, None] * np.eye(8)[0]
    folder = write(tmp_path / "f", vectors, files(tmp_path, 90), failed=[3])
    given = table(tmp_path, label=np.where(truth, "ill", "well"), patient_id=np.arange(90) // 2)
    options = ProbeOptions(positive="ill", out=tmp_path / "out", **QUICK)
    result = probe(folder.root, given, options)
    assert result.metrics["auroc"].value > 0.95
    assert result.notes == ("1 of 90 images could not be read and are left out.",)
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(rows.columns[:4]) == ["row", "patient", "fold", "target"]
    np.testing.assert_allclose(rows["p_ill"] + rows["p_well"], 1)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["n"], metrics["patients"], len(metrics["chosen"])) == (89, 45, 3)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Probe of frozen features" in page
    assert "png" not in page.replace("image/png", "")


def test_findings_and_numbers(write: Callable, tmp_path: Path, without_figures) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(80, 6))
    one, two = (vectors[:, 0] > 0).astype(float), (vectors[:, 1] > 0).astype(float)
    two[::4] = np.nan
    folder = write(tmp_path / "f", vectors, files(tmp_path, 80))
    given = table(tmp_path, one=one, two=two, size=vectors @ np.arange(1, 7) + 50)
    found = probe(folder.root, given, ProbeOptions(labels=["one", "two"], out=tmp_path / "a", **QUICK))
    assert found.metrics["auroc/two"].value > 0.9
    number = probe(folder.root, given, ProbeOptions(label="size", task="regression", out=tmp_path / "b", **QUICK))
    assert number.metrics["r2"].value > 0.95


def test_a_class_that_a_fold_does_not_have_gets_no_probability() -> None:
    random = np.random.default_rng(0)
    targets = np.array([0, 1] * 10)
    training = Training(random.normal(size=(20, 3)), targets, np.arange(20))
    task = Task("multiclass", ("a", "b", "c"))
    predicted, chosen = predict_held_out(training, np.zeros((2, 3)), task, "logistic", 0)
    assert predicted.shape == (2, 3)
    assert (predicted[:, 2] == 0).all()
    assert len(chosen) == 1


def test_another_table_is_refused(write: Callable, tmp_path: Path) -> None:
    folder = write(tmp_path / "f", np.ones((4, 2)), [f"/elsewhere/{number}.png" for number in range(4)])
    given = table(tmp_path, label=list("abab"))
    with pytest.raises(UserError, match="features of none of the 4 images"):
        probe(folder.root, given, ProbeOptions(out=tmp_path / "out"))


def test_two_names_of_one_file_have_its_features_and_one_patient(
    write: Callable, tmp_path: Path, without_figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "12.png").symlink_to(tmp_path / "0.png")
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    folder = write(tmp_path / "f", vectors[[*range(12), 0]], files(tmp_path, 13))
    seen = []
    monkeypatch.setattr("softfree.embeddings.probe._held_out", lambda matrix, *_: seen.append(matrix) or 1 / 0)
    patients = [f"p{number % 12}" for number in range(13)]
    given = table(tmp_path, label=np.where(np.arange(13) % 2, "ill", "well"), patient_id=patients)
    with pytest.raises(ZeroDivisionError):
        probe(folder.root, given, ProbeOptions(out=tmp_path / "out", **QUICK))
    np.testing.assert_array_equal(seen[0], vectors[[*range(12), 0]])
    given = table(tmp_path, label=np.where(np.arange(13) % 2, "ill", "well"), patient_id=[*patients[:12], "p12"])
    with pytest.raises(UserError, match=r"rows 0, 12 \(counted from 0\) name the same image and have different"):
        probe(folder.root, given, ProbeOptions(out=tmp_path / "out", **QUICK))
    assert not (tmp_path / "out").exists()


def test_cases_of_frames_of_one_file_are_different_samples() -> None:
    one, two = (Case((CaseFile("/a/s.tif", None, frame),)) for frame in (None, 1))
    assert sample_key(one, None) == sample_key("/a/s.tif", 0)
    assert sample_key(two, None) == sample_key("/a/s.tif", 1) != sample_key(one, None)
