"""The benchmark of cases: both ways are the same images, and their ratio is recorded."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from softfree_lab.bench.joined import ALONE, TOGETHER, ImagesCase, bench_cases, make_step
from softfree_lab.bench.options import CasesBenchOptions
from softfree_runtime.core.errors import UserError

NANO = "seqnorm_vit_nano_patch16"


@pytest.mark.slow
def test_rows_of_both_ways(tmp_path: Path) -> None:
    options = CasesBenchOptions(model=NANO, images=3, side=32, rounds=1, threads=1, out=tmp_path)
    text = bench_cases(options, lambda _: None)
    rows = pd.read_csv(tmp_path / "cases.csv").set_index("way")
    assert rows["tokens"].tolist() == [12, 12]
    assert rows.loc[ALONE, "to_alone"] == 1
    ratio = rows.loc[TOGETHER, "cpu_seconds"] / rows.loc[ALONE, "cpu_seconds"]
    assert rows.loc[TOGETHER, "to_alone"] == pytest.approx(ratio, rel=1e-4)
    assert text.count("3 of 32 x 32") == 2
    with pytest.raises(UserError, match="--images, --side and --rounds: expected 1 or more"):
        bench_cases(CasesBenchOptions(images=0))


@pytest.mark.parametrize(("way", "calls"), [(TOGETHER, 1), (ALONE, 3)])
def test_a_step_runs_all_images(way: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = []
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: backward.append(loss))
    make_step(ImagesCase("model", way, 32, batch=3, model=NANO))()
    assert len(backward) == calls
