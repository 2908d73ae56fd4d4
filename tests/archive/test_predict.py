"""Predictions of an archive: the rows of softfree predict, whatever is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from tests.small_model import write_model

from softfree.archive.bulk import _end, _missing
from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import ranks_of
from softfree.archive.options import ArchiveOptions, check_only_archives
from softfree.archive.predict import predict_archive
from softfree.archive.summary import Sample, drift, write_summary
from softfree.archive.tasks.predict import Predict
from softfree.archive.worker import Block
from softfree.cli.main import main
from softfree.core.shards import parse_shard
from softfree_runtime.core.errors import UserError


def options(out: Path, **others) -> ArchiveOptions:
    return ArchiveOptions(out=out, workers=1, progress=False, **others)


def test_rows_equal_those_of_predict(image_run, small_table: Path, tmp_path: Path, capsys) -> None:
    """One archive through its life: finished, found finished, refused to another model."""
    folder = small_table.parent
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    model, inputs = str(image_run.folder), [str(folder), str(tmp_path / "gone.png")]
    single = tmp_path / "single.parquet"
    assert main(["predict", model, *inputs, "--out", str(single), "--progress=false"]) == 1

    out = tmp_path / "archive"
    assert predict_archive(model, inputs, options(out, block=8, csv=True)) == 1
    assert "32 of 34 predicted" in capsys.readouterr().err

    alone, rows = pd.read_parquet(single), pd.read_parquet(out / "predictions.parquet")
    assert list(rows["input"]) == list(range(34))
    assert list(rows["path"]) == list(alone["path"])
    assert list(rows["status"]) == list(alone["status"])
    assert list(rows["reason"]) == list(alone["reason"])
    np.testing.assert_allclose(rows[["p_well", "p_ill"]].astype(float), alone[["p_well", "p_ill"]], atol=1e-6)
    assert len(pd.read_csv(out / "predictions.csv")) == 34
    page = (out / "summary.html").read_text()
    assert "32 of 34 inputs were predicted" in page
    assert "00.png" not in page
    last = json.loads((out / "progress.jsonl").read_text().splitlines()[-1])
    assert (last["done"], last["statuses"]) == (34, {"ok": 32, "corrupt": 1, "missing": 1})
    assert 'softfree_archive_rows{status="ok"} 32' in (out / "progress.prom").read_text()

    parts = {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert predict_archive(model, inputs, options(out, block=8)) == 1
    assert parts == {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}

    (image_run.folder / "calibration.json").write_text('{"temperature": 2.0}')
    with pytest.raises(UserError, match=r"was begun with model digest .*, and now it is model digest"):
        predict_archive(model, inputs, options(out, block=8))


def test_two_at_once_and_foreign_folders_are_refused(image_run, tmp_path: Path) -> None:
    out = tmp_path / "archive"
    out.mkdir()
    (out / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="folder with other files"):
        predict_archive(str(image_run.folder), ["x"], options(out))
    (out / "letter.txt").unlink()
    (tmp_path / "image.png").write_bytes(b"")
    with FileLock(out / ".lock"), pytest.raises(UserError, match="another process is working"):
        predict_archive(str(image_run.folder), [str(tmp_path / "image.png")], options(out))


def test_files_and_folders_have_different_options(tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match="--shard is for archives"):
        check_only_archives(ArchiveOptions(shard="0/2"))
    check_only_archives(ArchiveOptions())
    assert main(["predict", "run", "x.png", "--out", str(tmp_path / "folder"), "--json"]) == 2
    assert "predictions.parquet" in capsys.readouterr().err


def test_shards_and_times() -> None:
    assert parse_shard(None) == (0, 1)
    assert parse_shard("3/4") == (3, 4)
    for wrong in ("4/4", "1", "a/b", "-1/2"):
        with pytest.raises(UserError, match="expected i/n"):
            parse_shard(wrong)
    soon = _end((datetime.now() + timedelta(minutes=2)).strftime("%H:%M"))
    assert soon is not None
    assert timedelta(0) < soon - datetime.now() <= timedelta(minutes=2)
    past = _end((datetime.now() - timedelta(minutes=2)).strftime("%H:%M"))
    assert past is not None
    assert past - datetime.now() > timedelta(hours=23)
    for wrong in ("soon", "07:00Z", "0001-01-01T00:00+14:00"):
        with pytest.raises(UserError, match="expected a time such as 07:00"):
            _end(wrong)
    moment = datetime(2027, 1, 31, 7).astimezone(timezone(timedelta(hours=5)))
    assert _end(moment.isoformat()) == _end("2027-01-31T07:00") == datetime(2027, 1, 31, 7)


def test_missing_pieces_of_a_block() -> None:
    done = np.array([1, 0, 0, 1, 0], bool)
    assert list(_missing(Block(0, 5), done)) == [Block(1, 3), Block(4, 5)]
    assert list(_missing(Block(0, 1), done)) == []


def test_orders(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,priority\na,2\nb,\nc,10\n")
    samples = [(name, str(tmp_path / name), None) for name in "abc"]
    for name, age in zip("abc", (3, 1, 2), strict=True):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))

    def names(order: str) -> str:
        return "".join("abc"[rank] for rank in ranks_of(samples, order, [str(table)]))

    assert (names("newest"), names("oldest")) == ("bca", "acb")
    assert (names("priority"), names("-priority")) == ("acb", "cab")
    with pytest.raises(UserError, match="no column 'prio'"):
        names("prio")


def test_a_sample_of_scores_is_fair() -> None:
    sample = Sample(1000)
    for first in range(0, 10_000, 500):
        sample.add(pd.DataFrame({"p_ill": np.arange(first, first + 500, dtype=float)}))
    values = sample.values()["p_ill"]
    assert len(set(values)) == 1000
    assert abs(values.mean() - 4999.5) < 5 * 2887 / np.sqrt(1000)
    assert drift({"a": np.zeros(50)}, {"a": np.ones(50)})["a"]["distance"] == 1.0
    assert drift({"a": np.zeros(50)}, {}) == {}


def test_summary_by_month(tmp_path: Path) -> None:
    import pyarrow as pa

    folder = ArchiveFolder(tmp_path)
    rows = [
        {"path": "x", "status": "ok", "p_ill": 0.25, "unusual": True, "month": "2026-10", "device": None},
        {"path": "y", "status": "ok", "p_ill": 0.75, "unusual": False, "month": "2026-11", "device": None},
        {"path": "z", "status": "corrupt", "p_ill": None, "unusual": None, "month": "2026-11", "device": None},
    ]
    folder.write_part(0, pa.Table.from_pylist(rows))
    summary = write_summary(folder, Predict("model.onnx"))
    assert summary["groups"]["month"]["2026-11"] == {
        "rows": 2, "predicted": 1, "unusual": 0.0, "means": {"p_ill": 0.75},
    }  # fmt: skip
    assert summary["unusual"] == 0.5
    assert "device" not in summary["groups"]


def test_a_summary_counts_only_rows_with_a_value(tmp_path: Path) -> None:
    import pyarrow as pa

    folder = ArchiveFolder(tmp_path)
    rows = [
        {"input": number, "path": "x", "status": "ok", "p_ill": score, "value": None, "month": "2026-10"}
        for number, score in enumerate((0.25, 0.75, None, None))
    ]
    folder.write_part(0, pa.Table.from_pylist(rows))
    summary = write_summary(folder, Predict("model.onnx"))
    assert summary["unusual"] is None
    assert summary["groups"]["month"]["2026-10"] == {
        "rows": 4, "predicted": 4, "unusual": None, "means": {"p_ill": 0.5},
    }  # fmt: skip
    assert "unusual" not in folder.page.read_text()
    rows = [row | {"unusual": known} for row, known in zip(rows, (True, False, False, None), strict=True)]
    folder.write_part(0, pa.Table.from_pylist(rows))
    assert write_summary(folder, Predict("model.onnx"))["unusual"] == pytest.approx(1 / 3)


def test_a_table_that_changed_is_refused(tmp_path: Path) -> None:
    """The rows are numbered by those of the table as it was listed."""
    model, out, table = str(write_model(tmp_path / "model.onnx")), tmp_path / "archive", tmp_path / "table.csv"
    table.write_text("path\na.png\nb.png\n")
    given = ArchiveOptions(out=out, workers=0, progress=False, limit=0)
    assert predict_archive(model, [str(table)], given) == 0
    assert predict_archive(model, [str(table)], given) == 0
    table.write_text("path\nb.png\n")
    with pytest.raises(UserError, match="was begun with tables digest"):
        predict_archive(model, [str(table)], given)
    table.unlink()
    with pytest.raises(UserError, match="no such table"):
        predict_archive(model, [str(table)], given)


@pytest.mark.slow
def test_a_killed_archive_goes_on_and_equals_an_undisturbed_one(run, shared_data: Path, tmp_path: Path) -> None:
    inputs = [str(shared_data / "blood_cells" / "manifest.csv")]
    whole = tmp_path / "whole"
    predict_archive(str(run.folder), inputs, options(whole, block=16))
    out = tmp_path / "killed"
    assert predict_archive(str(run.folder), inputs, options(out, block=16, limit=32)) == 0
    assert ArchiveFolder(out).done(len(pd.read_parquet(whole / "predictions.parquet"))).sum() == 32
    assert not (out / "predictions.parquet").exists()
    command = [sys.executable, "-m", "softfree.cli.main", "predict", str(run.folder), *inputs]
    command += ["--out", str(out), "--workers", "1", "--block", "16", "--progress", "false"]
    for seconds in (3, 9, 12, 16):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    expected, rows = pd.read_parquet(whole / "predictions.parquet"), pd.read_parquet(out / "predictions.parquet")
    pd.testing.assert_frame_equal(rows, expected)
