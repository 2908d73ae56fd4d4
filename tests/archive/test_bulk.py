"""Bulk work with a task that only counts letters: what goes wrong on the way."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
import pytest

from softfree.archive.bulk import Bulk, Given, do_all
from softfree.archive.folder import ArchiveFolder
from softfree.archive.task import Task, Words
from softfree.archive.watch import handle
from softfree.core.options import BulkOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import NamedSource


@dataclass(frozen=True)
class Count(Task):
    """Counts the letters of names; names that begin with a dash cannot be counted."""

    name: ClassVar[str] = "count"
    words: ClassVar[Words] = Words("count", "counted", "Counts")
    names: tuple[str, ...]
    version: int = 1
    padding: int = 0

    def open(self, root: Path) -> Counter:
        return Counter(self.padding)

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        return "image", ()

    def samples(self) -> list[NamedSource]:
        return [(name, name, None) for name in self.names]

    def identity(self) -> dict[str, Any]:
        return {"version": self.version}


@dataclass
class Counter:
    padding: int
    model_seconds: float = 0.0

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        rows = []
        for name, _, _ in samples:
            bad = name.startswith("-")
            noise = os.urandom(self.padding).hex()
            rows.append({"path": name, "status": "corrupt" if bad else "ok", "reason": "dash" if bad else "",
                         "letters": None if bad else len(name), "noise": noise})  # fmt: skip
        return pa.Table.from_pylist(rows)


def count(task: Count, out: Path, **options: Any) -> int:
    return do_all(task, Given(["names"], out, progress=False), BulkOptions(workers=0, **options))


def test_a_hopeless_archive_stops_early_and_goes_on_if_told(tmp_path: Path, capsys) -> None:
    task = Count(tuple(f"{'' if number % 20 == 0 else '-'}{number}" for number in range(1600)))
    with pytest.raises(UserError, match=r"950 of the first 1,000 inputs could not be counted \(corrupt: 950\).*--keep"):
        count(task, tmp_path, block=100)
    assert ArchiveFolder(tmp_path).done(1600).sum() == 1000
    assert count(task, tmp_path, block=100, keep_going=True) == 1
    assert "80 of 1,600 counted" in capsys.readouterr().err
    rows = pd.read_parquet(tmp_path / "results.parquet")
    assert rows["input"].tolist() == list(range(1600))
    with pytest.raises(UserError, match="none of the 3 inputs could be counted"):
        count(Count(("-a", "-b", "-c")), tmp_path / "none")


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    task = Count(tuple(map(str, range(40))), padding=2000)
    assert count(task, tmp_path, block=4, limit=8) == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # as a disk with no more room than that
    try:
        with pytest.raises(UserError, match=r"cannot write .*parquet: .*; free some space") as caught:
            count(task, tmp_path, block=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert ArchiveFolder(tmp_path).done(40).sum() == 8
    assert count(task, tmp_path, block=4) == 0
    assert pd.read_parquet(tmp_path / "results.parquet")["letters"].tolist() == [len(str(n)) for n in range(40)]


def test_other_work_in_the_folder_is_refused(tmp_path: Path) -> None:
    task = Count(("a", "b"))
    count(task, tmp_path, limit=1)
    with pytest.raises(UserError, match="was begun with version 1, and now it is version 2"):
        count(Count(("a", "b"), version=2), tmp_path)
    with pytest.raises(UserError, match="was begun with block 32, and now it is block 8"):
        count(task, tmp_path, block=8)
    first, second = (Given(["names"], tmp_path / "of A", image_root=Path(root), progress=False) for root in "AB")
    do_all(task, first, BulkOptions(workers=0, limit=1))
    with pytest.raises(UserError, match=r"was begun with inputs digest .*, and now it is inputs digest"):
        do_all(task, second, BulkOptions(workers=0, limit=1))
    with pytest.raises(UserError, match="--workers -1: expected at least 1"):
        do_all(task, Given(["names"], tmp_path), BulkOptions(workers=-1))
    with pytest.raises(UserError, match="--ray-address is for --engine ray"):
        count(task, tmp_path, ray_address="auto")


def test_shards_and_csv(tmp_path: Path, capsys) -> None:
    task = Count(tuple("abcdef"))
    assert count(task, tmp_path, block=2, shard="1/2") == 0
    assert "2 of 6 inputs have a row" in capsys.readouterr().err
    assert count(task, tmp_path, block=2, shard="0/2", csv=True) == 0
    assert pd.read_csv(tmp_path / "results.csv")["path"].tolist() == list("abcdef")
    assert (tmp_path / "progress-0-of-2.jsonl").is_file()


@pytest.mark.parametrize(("running", "given"), [("0/2", None), (None, "1/2"), ("0/2", "0/3")])
def test_shares_of_another_number_are_refused_while_one_is_worked_on(
    tmp_path: Path, running: str | None, given: str | None
) -> None:
    task = Count(tuple("abcdef"))
    count(task, tmp_path, limit=0)
    work = Bulk(task, Given(["names"], tmp_path, progress=False), BulkOptions(workers=0, shard=running))
    message = "another process is working with another number of shards in"
    with work._lock(work._lock_of(work.shard), "working"), pytest.raises(UserError, match=message):
        count(task, tmp_path, shard=given)
    assert count(task, tmp_path, shard=given) == 0
    other = Bulk(task, Given(["names"], tmp_path, progress=False), BulkOptions(workers=0, shard="1/5"))
    with other._lock(other._lock_of(other.shard), "working"):
        assert count(task, tmp_path, shard="0/5") == 0


def test_rows_whose_part_was_removed_are_made_again(tmp_path: Path) -> None:
    task = Count(tuple("abcdef"), padding=8)
    assert count(task, tmp_path, block=2, limit=2) == 0
    assert count(task, tmp_path, block=2) == 0
    before = pd.read_parquet(tmp_path / "results.parquet")["noise"]
    next((tmp_path / "parts").glob("000000000-*")).unlink()
    assert count(task, tmp_path, block=2) == 0
    after = pd.read_parquet(tmp_path / "results.parquet")["noise"]
    assert (before != after).tolist() == [True] * 2 + [False] * 4


class Writer:
    """A handler during which some files change."""

    model_seconds = 0.0

    def __init__(self, *changed: Path) -> None:
        self.changed = changed

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        for path in self.changed:
            path.write_bytes(path.read_bytes() + b"more")
        features = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 2 * len(samples), pa.float32()), 2)
        names = [name for name, _, _ in samples]
        texts = {"path": names, "status": ["ok"] * len(names), "reason": [""] * len(names)}
        return pa.table(texts | {"features": features})


def test_files_that_change_while_they_are_read(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for path in files:
        path.write_bytes(b"x")
    rows = handle(Writer(files[1]), [(path.name, str(path), None) for path in files], [0, 1])
    assert rows.schema.field("features").type == pa.list_(pa.float32(), 2)
    found = rows.to_pylist()
    assert [row["status"] for row in found] == ["ok", "changed"]
    assert [row["features"] for row in found] == [[1.0, 1.0], None]
    assert "changed while it was read" in found[1]["reason"]


def test_clocks_that_differ_change_nothing(tmp_path: Path) -> None:
    """A file server whose clock is a year ahead, or an archive from before 1970."""
    for name, when in (("ahead", time.time() + 365 * 86400), ("before", -86400)):
        path = tmp_path / name
        path.write_bytes(b"x")
        os.utime(path, (when, when))
        (row,) = handle(Writer(), [(name, str(path), None)], [0]).to_pylist()
        assert row["status"] == "ok"
