"""Published accuracies have sources, throughputs are measured in turns, and a later start goes on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import timm
from PIL import Image

from softfree.models.registry import MODELS
from softfree_lab.bench import throughput
from softfree_lab.bench.cases import BenchCase
from softfree_lab.bench.journal import Journal
from softfree_lab.bench.options import ThroughputBenchOptions
from softfree_lab.bench.throughput import BANDS, all_cases, bench_throughput, named, published, throughput_rows, visit
from softfree_runtime.core.errors import UserError


def test_each_published_number_has_a_source_and_a_model() -> None:
    table = published()
    assert (table["source"].str.len() > 10).all()
    assert table["top1"].between(70, 90).all()
    assert not table.duplicated(["model", "family"]).any()
    for name in [*table["model"], *BANDS]:
        assert name in MODELS or timm.is_model(name)


def options(folder: Path, **more: object) -> ThroughputBenchOptions:
    small = {"models": ["pvt_v2_b0", "seqnorm_vit_nano_patch16"], "sides": [64, 96], "batches": [1, 8], "rounds": 2}
    return ThroughputBenchOptions(
        **{"out": folder, "precisions": ["fp32"], "seconds": 0.01, "threads": 1, **small, **more}
    )  # type: ignore[arg-type]


def test_larger_sides_have_smaller_batches(tmp_path: Path) -> None:
    cases = list(all_cases(["convnext_tiny"], options(tmp_path, sides=[224, 512, 1024], batches=[1, 16])))
    assert [(case.size, case.batch) for case in cases] == [(224, 1), (224, 16), (512, 1), (512, 3), (1024, 1)]
    assert all(dict(case.options)["channels_last"] for case in cases)


def test_end_to_end_and_again(tmp_path: Path) -> None:
    text = bench_throughput(options(tmp_path, batches=[1]), lambda line: None)
    assert "| pvt_v2_b0 | 70.5 |" in text
    assert "recipe" in text
    rows = pd.read_csv(tmp_path / "throughput.csv")
    assert rows["visits"].tolist() == [2] * 4
    assert (rows["images_per_second"] > 0).all()
    assert Image.open(tmp_path / "throughput.png").width > 1000
    before = (tmp_path / "throughput.jsonl").read_text()
    bench_throughput(options(tmp_path, batches=[1]), lambda line: None)
    assert (tmp_path / "throughput.jsonl").read_text() == before


def test_what_fails_or_takes_too_long_is_said_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, told = Journal(tmp_path / "results.jsonl"), []
    small, large = (BenchCase("model", "resnet10t", size) for size in (64, 640))
    monkeypatch.setattr(throughput, "prepare", lambda case: lambda: None)
    monkeypatch.setattr(throughput, "timed", lambda *_, **__: {"ms": 1000.0})
    for case in (small, large):
        visit(journal, case, 0, options(tmp_path, limit=30.0), told.append)
    assert next(journal.results(size=640))["reason"] == "would take about 100 s per run"
    visit(journal, large, 1, options(tmp_path), told.append)
    assert len(list(journal.results(**named(large)))) == 1
    broken = BenchCase("model", "resnet18", 64)
    monkeypatch.setattr(throughput, "prepare", lambda case: 1 / 0)
    visit(journal, broken, 0, options(tmp_path), told.append)
    rows = throughput_rows(journal).set_index(["method", "size"])
    assert rows.loc[("resnet18", 64), "reason"] == "division by zero"
    assert rows.loc[("resnet10t", 64), "images_per_second"] == 1


def test_rows_are_the_median_of_the_visits(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.jsonl")
    case = BenchCase("model", "resnet18", 64, batch=4)
    for number, milliseconds in enumerate((90.0, 20.0, 40.0)):
        journal.put(named(case) | {"visit": number}, "ok", ms=milliseconds)
    row = throughput_rows(journal).iloc[0]
    assert (row["ms"], row["ms_low"], row["ms_high"], row["images_per_second"]) == (40, 20, 90, 100)


def test_results_of_another_machine_and_unknown_models_are_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "throughput.jsonl").put({"what": "machine"}, "ok", machine="another")
    with pytest.raises(UserError, match="holds results of another, this is"):
        bench_throughput(options(tmp_path), lambda line: None)
    with pytest.raises(UserError, match="Unknown models resnet5000"):
        bench_throughput(options(tmp_path, models=["resnet5000"]), lambda line: None)
