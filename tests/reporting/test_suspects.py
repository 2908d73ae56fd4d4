"""Labels that were changed are among the suspects, on real images with out-of-fold probabilities of a cheap model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softfree.evaluation.scores import Scores
from softfree.reporting.suspects import find_suspects, suspects_in_words
from softfree_runtime.core.task import Task

FLIPPED = 0.05


def out_of_fold(features: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    parts = [PCA(40, random_state=0)] if features.shape[1] > 1000 else []
    model = make_pipeline(StandardScaler(with_std=bool(parts)), *parts, LogisticRegression(C=strength, max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_predict(model, features, labels, cv=folds, method="predict_proba")


def flipped(labels: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which 5 % were changed to another class, and which rows these are."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: round(FLIPPED * len(labels))]
    changed = labels.copy()
    changed[rows] = (changed[rows] + rng.integers(1, classes, len(rows))) % classes
    return changed, rows


def found(scores: Scores, rows: np.ndarray, changed: np.ndarray) -> tuple[float, float]:
    """Recall and precision of the suspects."""
    suspects = find_suspects(scores, rows, np.zeros(len(rows), int))
    assert suspects is not None
    assert suspects["p_label"].is_monotonic_increasing
    hits = np.isin(suspects["row"], changed).sum()
    return hits / len(changed), hits / max(1, len(suspects))


@pytest.fixture(scope="module")
def cells(shared_data: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Histograms of colors, labels and classes of real blood cells."""
    table = pd.read_csv(shared_data / "blood_cells" / "manifest.csv")
    features = []
    for path in table["path"]:
        with Image.open(shared_data / "blood_cells" / path) as image:
            pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
        colors = pixels[12:52, 12:52].reshape(-1, 3) // 43
        features.append(np.bincount(colors @ [36, 6, 1], minlength=216))
    labels, classes = pd.factorize(table["label"], sort=True)
    return np.sqrt(np.array(features) / 1600), labels, tuple(classes)


def test_many_classes(cells: tuple[np.ndarray, np.ndarray, tuple[str, ...]]) -> None:
    features, labels, classes = cells
    results = []
    for seed in range(2):
        changed, rows = flipped(labels, len(classes), seed)
        p = out_of_fold(features, changed, 10)
        scores = Scores(Task("multiclass", classes), p, changed, np.arange(len(p)))
        results.append(found(scores, np.arange(len(p)), rows))
    recall, precision = np.mean(results, axis=0)
    print(f"blood cells: recall {recall:.2f}, precision {precision:.2f}")
    assert recall > 0.5
    assert precision > 4 * FLIPPED


def test_two_classes(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "chest_xray" / "manifest.csv")
    small = []
    for path in table["path"]:
        with Image.open(shared_data / "chest_xray" / path) as image:
            image.draft("L", (64, 64))
            small.append(np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), float).ravel())
    labels, classes = pd.factorize(table["label"], sort=True)
    results = []
    for seed in range(3):
        changed, rows = flipped(labels, 2, seed)
        p = out_of_fold(np.stack(small), changed, 0.1)
        scores = Scores(Task("binary", tuple(classes)), p, changed, np.arange(len(p)))
        results.append(found(scores, table.index.to_numpy(), rows))
    recall, precision = np.mean(results, axis=0)
    print(f"chest radiographs: recall {recall:.2f}, precision {precision:.2f}")
    assert recall > 0.5
    assert precision > 4 * FLIPPED


def test_findings_with_unknown_labels(cells: tuple[np.ndarray, np.ndarray, tuple[str, ...]]) -> None:
    """Two findings, of which the second is unknown in every third row and wrong in some of the others."""
    features, labels, _ = cells
    first, second = (np.isin(labels, kinds).astype(int) for kinds in ([0, 1], [2, 3, 4]))
    known = np.flatnonzero(np.arange(len(labels)) % 3)
    changed, rows = flipped(second[known], 2, 0)
    p = np.zeros((len(labels), 2))
    p[:, 0] = out_of_fold(features, first, 10)[:, 1]
    p[known, 1] = out_of_fold(features[known], changed, 10)[:, 1]
    targets = np.stack([first, np.full(len(labels), np.nan)], axis=1).astype(float)
    targets[known, 1] = changed
    scores = Scores(Task("multilabel", ("x", "y")), p, targets, np.arange(len(p)))
    suspects = find_suspects(scores, np.arange(len(p)) + 100, np.arange(len(p)) % 5)
    assert suspects is not None
    of_second = suspects[suspects["finding"] == "y"]
    hits = np.isin(of_second["row"] - 100, known[rows])
    print(f"findings: recall {hits.sum() / len(rows):.2f}, precision {hits.mean():.2f}")
    assert hits.sum() / len(rows) > 0.5
    assert hits.mean() > 4 * FLIPPED
    assert set(of_second["row"] - 100) <= set(known), "an unknown label is no suspect"
    assert (of_second["fold"] == (of_second["row"] - 100) % 5).all()
    present = of_second[of_second["label"] == "present"]
    assert set(present["suggested"]) <= {"absent"}
    assert suspects_in_words(suspects, scores).startswith(f"{len(suspects)} of {len(labels) + len(known)} labels are")


def test_certain_labels_and_missing_classes_are_no_suspects() -> None:
    targets = np.repeat([0, 1], 20)
    p = np.full((40, 3), 0.02)
    p[np.arange(40), targets] = 0.96
    scores = Scores(Task("multiclass", ("a", "b", "c")), p, targets, np.arange(40))
    suspects = find_suspects(scores, np.arange(40), np.zeros(40, int))
    assert suspects is not None
    assert suspects.empty
    assert list(suspects) == ["row", "fold", "label", "suggested", "p_label", "p_suggested"]
    alone = Scores(Task("binary", ("a", "b")), p[:20, :2], targets[:20], np.arange(20))
    none = find_suspects(alone, np.arange(20), np.zeros(20, int))
    assert none is not None
    assert none.empty


def test_without_cleanlab_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softfree.reporting.suspects.find_spec", lambda name: None)
    scores = Scores(Task("binary", ("a", "b")), np.full((4, 2), 0.5), np.array([0, 1, 0, 1]), np.arange(4))
    assert find_suspects(scores, np.arange(4), np.zeros(4)) is None
    assert "this needs cleanlab (pip install 'softfree[audit]')" in suspects_in_words(None, scores)
