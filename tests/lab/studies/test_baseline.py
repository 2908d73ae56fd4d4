from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from softfree.core.options import TrainOptions
from softfree_lab.studies.baseline import fit_baseline
from softfree_runtime.core.errors import UserError


def test_what_32_pixels_tell_is_found(small_table: Path) -> None:
    """Bright at the top or at the bottom."""
    scores, cost = fit_baseline(TrainOptions(table=small_table, preset="radiograph"))
    assert len(scores) == 8
    assert roc_auc_score(scores.targets, scores.probabilities[:, 1]) == 1
    np.testing.assert_allclose(scores.probabilities.sum(1), 1)
    assert cost["multiply_adds"] == 2 * 32 * 32


def test_several_classes_and_a_bad_file(small_table: Path) -> None:
    frame = pd.read_csv(small_table)
    frame.loc[::2, "label"] = "left"
    frame.to_csv(small_table, index=False)
    (small_table.parent / "31.png").write_bytes(b"")
    scores, _ = fit_baseline(TrainOptions(table=small_table))
    assert scores.probabilities.shape == (7, 3)


def test_frames_of_a_file_are_told_apart(small_table: Path) -> None:
    """All images as pages of one file: the labels are still recognized."""
    table = pd.read_csv(small_table)
    pages = [Image.open(small_table.parent / path) for path in table["path"]]
    pages[0].save(small_table.parent / "all.tif", save_all=True, append_images=pages[1:])
    table["path"], table["frame"] = "all.tif", range(len(table))
    table.to_csv(small_table, index=False)
    scores, _ = fit_baseline(TrainOptions(table=small_table, preset="radiograph"))
    assert roc_auc_score(scores.targets, scores.probabilities[:, 1]) == 1


def test_findings_have_none(small_table: Path) -> None:
    frame = pd.read_csv(small_table)
    frame["a"], frame["b"] = (frame["label"] == "low").astype(int), (frame["site"] == "A").astype(int)
    frame.drop(columns="label").to_csv(small_table, index=False)
    with pytest.raises(UserError, match="exclude each other"):
        fit_baseline(TrainOptions(table=small_table, labels=["a", "b"]))
