"""The benchmark of archives: what it counts, and what it says about machines on paper."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import write_inputs
from softfree_lab.bench.archive import scaling
from softfree_lab.bench.archive.command import bench_archive
from softfree_lab.bench.archive.kills import _lost, _same
from softfree_lab.bench.archive.scaling import Stages, forecast
from softfree_lab.bench.archive.setting import SIDE, Bench, crops
from softfree_lab.bench.archive.throughput import _rate_of
from softfree_lab.bench.options import ArchiveBenchOptions
from softfree_runtime.core.errors import UserError

STAGES = Stages(prepare=0.004, model=0.01, write=0.0, bytes=1e5, alone=1e-5)


def options(**others) -> ArchiveBenchOptions:
    return ArchiveBenchOptions(gpu_rate=10_000.0, network_gbit=10.0, store_gbit=40.0, start=0.0, **others)


def test_cores_that_decode_limit_one_machine_and_the_store_many() -> None:
    one = forecast(STAGES, options(cores=16), 1)
    assert one.rates["decoding and preparing"] == pytest.approx(16 / 0.004)
    assert one.rates["GPUs"] == 10_000
    assert one.rates["network of the machines"] == pytest.approx(10e9 / 8 / 1e5)
    assert one.limit == "decoding and preparing"
    assert one.seconds == pytest.approx(1e6 / 4000 + 10)
    many = forecast(STAGES, options(cores=16), 100)
    assert many.limit == "bandwidth of the object store"
    assert many.together == pytest.approx(1e6 / (40e9 / 8 / 1e5))
    small = forecast(STAGES, options(cores=16, inputs=1000), 100)
    assert small.seconds == pytest.approx(1000 / 50_000 + 1000 * 1e-5)


def test_one_process_limits_when_the_others_are_fast() -> None:
    slow = replace(STAGES, alone=1e-3)
    assert forecast(slow, options(), 100).limit == "start, listing and joining by one process"
    assert forecast(STAGES, options(store_latency=1e5), 1).limit == "latency of the object store"


def test_the_model_is_fitted_to_the_last_line_of_progress(tmp_path: Path) -> None:
    bench = Bench(options(alone=0.05), "run", tmp_path, tmp_path)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "1.jpg").write_bytes(b"x" * 300)
    bench.progress = tmp_path / "progress.jsonl"
    lines = [{"done": 1}, {"done": 40, "reading_seconds": 4.0, "model_seconds": 8.0, "writing_seconds": 0.2}]
    bench.progress.write_text("\n".join(map(json.dumps, lines)))
    assert scaling._fitted(bench) == Stages(0.1, 0.2, 0.005, 300, 5e-5)
    found = {row.what: row.value for row in scaling.scaling(bench)}
    assert found["measured: the model, one core"] == pytest.approx(200)
    assert found["1 machine: GPUs could do"] == 10_000


def test_crops_have_content_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, shape in enumerate([(600, 700), (100, 90)]):
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    made = list(crops(tmp_path, 5))
    assert [crop.size for crop in made] == [(SIDE, SIDE)] * 5
    assert len({crop.tobytes() for crop in made}) == 5
    with pytest.raises(UserError, match="no JPEG or PNG below it"):
        next(crops(tmp_path / "gone", 1))


def test_what_a_kill_loses_is_what_was_told_and_not_written(tmp_path: Path) -> None:
    folder = ArchiveFolder(tmp_path)
    assert _lost(folder) == 0
    write_inputs(folder.inputs, [(str(number), str(number), None) for number in range(9)])
    folder.write_part(0, pa.table({"path": list("abcd")}))
    (tmp_path / "progress.jsonl").write_text('{"done": 2}\n{"done": 7}\n{"do')
    assert _lost(folder) == 3


def test_rows_without_a_month_are_equal(tmp_path: Path) -> None:
    rows = [{"path": "a", "month": None, "p": 0.5, "unusual": True}, {"path": "b", "month": None, "p": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    one, two = (pd.read_parquet(tmp_path / "rows.parquet") for _ in range(2))
    assert _same(one, two).tolist() == [True, True]
    two.loc[0, "path"] = "c"
    two.loc[1, "p"] = 0.5
    assert _same(one, two).tolist() == [False, False]


def test_the_rate_is_that_between_the_first_line_and_the_last(tmp_path: Path) -> None:
    log = tmp_path / "progress.jsonl"
    first, near, last = ({"done": done, "time": f"2026-11-30T10:{at}+00:00"}
                         for done, at in ((5, "00:10"), (50, "00:20"), (305, "00:40")))  # fmt: skip
    log.write_text("\n".join(map(json.dumps, (first, near))))
    assert _rate_of(log) is None
    log.write_text("\n".join(map(json.dumps, (first, near, last))))
    assert _rate_of(log) == 10


def test_parts_are_run_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "softfree_lab.bench.archive.command._part", lambda name: lambda bench: [(name, bench.options.images, "images")]
    )
    text = bench_archive(options(parts=["images"], images=7, out=tmp_path / "a.csv"), "run", str(tmp_path))
    assert "| images | images | 7 | images |" in text
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "images,images,7,images"
    assert "load_at_start" in json.loads((tmp_path / "a.json").read_text())["options"]
