"""Images whose class is where a disk is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree_lab.cli import main
from softfree_lab.studies.options import PositionsOptions
from softfree_lab.studies.positions import write_disks


def test_the_class_is_where_the_disk_is(tmp_path: Path) -> None:
    options = PositionsOptions(n_train=40, n_val=10, n_test=10)
    frame = pd.read_csv(write_disks(tmp_path, options, seed=3))
    assert frame.groupby(["split", "label"]).size().to_dict() == {
        (split, label): count
        for split, count in (("train", 20), ("val", 5), ("test", 5))
        for label in ("bottom", "top")
    }
    for path, label in zip(frame["path"], frame["label"], strict=True):
        with Image.open(tmp_path / path) as image:
            bright = np.asarray(image) > 125
        rows = np.flatnonzero(bright.any(axis=1))
        assert (rows < 32).all() if label == "top" else (rows >= 32).all()
        assert 20 < bright.sum() <= 81


def test_the_study_compares_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--n-train", "16", "--n-val", "10", "--n-test", "10", "--size", "24", "--epochs", "1", "--batch-size", "8"]
    out = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "positions.csv"), "--seeds", "[0]"]
    which = ["--pos", "[random, learn]", "--model-options", "{depth: 1}", "--progress=false"]
    assert main(["study", "positions", *size, *out, *which, "--json"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed[printed.index("[") :])
    assert [row["pos"] for row in rows] == ["random", "learn"]
    assert "| random | 0 |" in (tmp_path / "positions.md").read_text()
    assert main(["study", "positions", "--pos", "[linear]", *out]) == 2
    assert "--pos linear: expected some of random, learn, sincos, none" in capsys.readouterr().err
