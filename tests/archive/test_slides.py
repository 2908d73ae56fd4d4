"""Slides by processes: one that ends its process is a row, and the same command goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile

from softfree.archive import slides as module
from softfree.archive.slides import extract_features
from softfree.archive.tasks.slides import SlideEncoder, SlideFeatures
from softfree.features.options import FeatureOptions
from softfree_runtime.sources.inputs import NamedSource

pytestmark = pytest.mark.slow


class Deadly(SlideFeatures):
    """A decoder that ends the process at the slide b."""

    def open(self, root: Path) -> DeadlyEncoder:  # type: ignore[override]
        return DeadlyEncoder(self, root)


class DeadlyEncoder(SlideEncoder):
    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        if any(name == "b.tiff" for name, _, _ in samples):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__call__(samples, numbers)


def test_a_slide_that_ends_its_process(tmp_path: Path, monkeypatch, capsys) -> None:
    pixels = np.random.default_rng(0).integers(0, 120, (128, 192, 3), dtype=np.uint8)
    pixels[..., 1] //= 3
    for name in "abc":
        scale = {"resolution": (1250, 1250), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(tmp_path / f"{name}.tiff", pixels, tile=(64, 64), photometric="rgb", **scale)
    table = tmp_path / "slides.csv"
    table.write_text("path,label\na.tiff,x\nb.tiff,y\nc.tiff,x\n")
    out = tmp_path / "out"
    options = FeatureOptions(encoder="pixels", out=out, side=32, mpp=8.0, workers=1, progress=False)
    monkeypatch.setattr(module, "SlideFeatures", Deadly)
    assert extract_features(table, options) == 1
    assert "2 of 3 slides encoded" in capsys.readouterr().err
    rows = pd.read_parquet(out / "results.parquet")
    assert rows["status"].tolist() == ["ok", "crashed", "ok"]
    assert pd.read_csv(out / "failed.csv")["path"].tolist() == ["b.tiff"]
    assert pd.read_csv(out / "table.csv")["path"].tolist() == ["a.tiff.h5", "c.tiff.h5"]
    before = (out / "a.tiff.h5").stat().st_mtime_ns
    monkeypatch.undo()
    assert extract_features(table, options) == 0
    assert (out / "a.tiff.h5").stat().st_mtime_ns == before
    assert pd.read_parquet(out / "results.parquet")["status"].tolist() == ["ok"] * 3
    assert not (out / "failed.csv").exists()
