"""Cases of two images of which only both together show the class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree_lab.cli import main
from softfree_lab.needles import INK, KINDS
from softfree_lab.studies.options import ViewsOptions
from softfree_lab.studies.views import write_pairs


def test_a_single_image_shows_either_color_equally_often_in_both_classes(tmp_path: Path) -> None:
    options = ViewsOptions(n_train=8, n_val=4, n_test=4, size=128, mark=16, progress=False)
    frame = pd.read_csv(write_pairs(tmp_path, options, seed=1))
    assert frame.groupby(["split", "label"])["case_id"].nunique().to_dict() == {
        (split, label): count for split, count in (("train", 4), ("val", 2), ("test", 2)) for label in ("mixed", "same")
    }
    colors = [_color(tmp_path / path) for path in frame["path"]]
    by_case = frame.assign(color=colors).groupby("case_id")
    assert ((by_case["color"].nunique() == 1) == (by_case["label"].first() == "same")).all()
    counts = frame.assign(color=colors).groupby(["split", "view", "label", "color"]).size()
    assert counts.loc["train"].to_list() == [2] * 8
    assert counts.loc["test"].to_list() == [1] * 8


def _color(path: Path) -> str:
    """Name the ink of the mark."""
    with Image.open(path) as image:
        pixels = np.asarray(image, dtype=float)
    counts = [(np.abs(pixels / 255 - ink).max(axis=2) < 0.08).sum() for ink in INK]
    assert max(counts) > 150 > 20 > min(counts)
    return KINDS[int(np.argmax(counts))]


def test_the_study_shows_both_and_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--n-train", "8", "--n-val", "4", "--n-test", "4", "--size", "128", "--epochs", "1", "--batch-size", "4"]
    out = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "views.csv"), "--seeds", "[0]"]
    assert main(["study", "views", *size, *out, "--model-options", "{depth: 1}", "--progress=false", "--json"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed[printed.index("[") :])
    assert [row["shown"] for row in rows] == ["both", "first", "second"]
    assert {row["n"] for row in rows} == {4}
    assert "| 0 | both |" in (tmp_path / "views.md").read_text()
    assert main(["study", "views", "--n-test", "3", *out]) == 2
