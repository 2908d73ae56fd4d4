"""The engine of one machine, with processes that fill in numbers instead of predictions."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pytest
from tests.processes import fork, needs_fork

from softfree.archive import local
from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList, write_inputs
from softfree.archive.local import LocalEngine
from softfree.archive.task import Words
from softfree.archive.worker import Block, Finished, PartWriter
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import NamedSource


@dataclass(frozen=True)
class Count:
    """A task: fills in the length of each name."""

    words = Words("count", "counted", "Counts")
    broken: bool = False

    def open(self, root: Path) -> Numbers:
        if self.broken:
            raise UserError("broken: cannot be opened")
        return Numbers(root)


class Numbers:
    """Fills in the length of each name; a file "poison" ends the process."""

    model_seconds = 0.0

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, samples: list[NamedSource], numbers: list[int]) -> pa.Table:
        names = [name for name, _, _ in samples]
        if "poison" in names:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "slow" in names:
            (self.root / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        rows = [{"path": name, "status": "ok", "reason": "", "value": float(len(name))} for name in names]
        return pa.Table.from_pylist(rows)


@pytest.fixture
def folder(tmp_path: Path) -> ArchiveFolder:
    return ArchiveFolder(tmp_path / "archive")


def begin(folder: ArchiveFolder, names: list[str]) -> list[Block]:
    write_inputs(folder.inputs, [(name, name, None) for name in names])
    return [Block(first, min(first + 4, len(names))) for first in range(0, len(names), 4)]


def run(folder: ArchiveFolder, blocks: list[Block], workers: int = 1, task: Count = Count()) -> Counter:
    seen: Counter[str] = Counter()

    def add(finished: Finished) -> None:
        seen.update(finished.statuses)

    LocalEngine(folder.root, task, workers, add).run(blocks, lambda: True)
    return seen


def rows_of(folder: ArchiveFolder) -> list[dict]:
    return pa.concat_tables(list(folder.rows())).to_pylist()


def test_each_input_has_one_row_and_names_of_any_bytes_come_back(folder: ArchiveFolder) -> None:
    names = [f"{number}.png" for number in range(10)]
    odd = os.fsdecode(b"caf\xe9.png")
    write_inputs(folder.inputs, [*((name, name, None) for name in names), ("caf\\xe9.png", odd, 3)])
    assert InputList(folder.inputs).read(10, 11) == [("caf\\xe9.png", odd, 3)]
    seen = run(folder, [Block(0, 4), Block(4, 8), Block(8, 11)], workers=2)
    assert seen == {"ok": 11}
    rows = rows_of(folder)
    assert [row["input"] for row in rows] == list(range(11))
    assert [row["value"] for row in rows] == [5.0] * 10 + [11.0]


def test_an_input_that_ends_its_process_twice_is_a_row_and_nothing_else_is_lost(folder: ArchiveFolder) -> None:
    names = ["a", "bb", "poison", "dddd", "eeeee"]
    seen = run(folder, begin(folder, names))
    assert seen == {"ok": 4, "crashed": 1}
    rows = rows_of(folder)
    assert [row["value"] for row in rows] == [1.0, 2.0, None, 4.0, 5.0]
    assert rows[2]["status"] == "crashed"
    assert "signal 11" in rows[2]["reason"]


def test_what_a_process_wrote_before_it_died_is_not_done_again(folder: ArchiveFolder, monkeypatch) -> None:
    """It died before it could say so."""
    blocks = begin(folder, list("abcdefgh"))
    folder.parts.mkdir()
    folder.write_part(0, pa.table({"input": range(4)}))
    monkeypatch.setattr(local, "_Worker", Mock)
    engine = LocalEngine(folder.root, Count(), 1, lambda finished: None)
    dead = Mock(unwritten=blocks, is_ready=True)
    engine._workers = [dead]
    engine._bury(dead)
    assert list(engine._todo) == [Block(number, number + 1, alone=True) for number in range(4, 8)]


@needs_fork
def test_processes_end_with_the_one_that_started_them(folder: ArchiveFolder) -> None:
    blocks = begin(folder, ["slow"])
    main = fork(run, folder, blocks)
    deadline = time.monotonic() + 60
    while not (told := folder.root / "pid").is_file() or not told.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    main.kill()
    main.join()
    while _is_running(int(told.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert folder.part_ranges() == []


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_model_that_cannot_be_opened_is_an_error_once(folder: ArchiveFolder) -> None:
    with pytest.raises(UserError, match="broken: cannot be opened"):
        run(folder, begin(folder, ["a", "b"]), workers=2, task=Count(broken=True))
    assert folder.part_ranges() == []


def test_what_was_begun_is_written_when_it_may_not_go_on(folder: ArchiveFolder) -> None:
    blocks = begin(folder, [str(number) for number in range(40)])
    finished: list[Finished] = []
    engine = LocalEngine(folder.root, Count(), 1, finished.append)
    engine.run(blocks, lambda: len(finished) < 2)
    done = folder.done(40)
    assert done.sum() == sum(len(one.block) for one in finished)
    assert 8 <= done.sum() < 40


def test_parts_lost_by_a_kill_are_the_only_ones_repeated(folder: ArchiveFolder) -> None:
    blocks = begin(folder, [str(number) for number in range(12)])
    run(folder, blocks[:2])
    (folder.parts / ".000000008-000000011.parquet.1.part.parquet").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in folder.parts.glob("[0-9]*")}
    missing = [block for block in blocks if not folder.done(12)[block.first]]
    assert missing == [Block(8, 12)]
    run(folder, missing)
    assert len(rows_of(folder)) == 12
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in folder.parts.glob("[0-9]*")}.items()


def test_parts_are_written_seldom_but_never_more_than_a_share_of_the_work_is_open(folder: ArchiveFolder) -> None:
    """Blocks of a second: at first each is a part, later those of up to ten seconds."""
    seconds = [0.0]
    writer = PartWriter(folder, lambda: seconds[0])
    open_since = 0.0
    for number in range(700):
        seconds[0] += 1.0
        rows = pa.table({"path": ["x"], "status": ["ok"], "reason": [""]})
        written = writer.add(Block(number, number + 1), rows)
        if number < 50:
            assert written == [Block(number, number + 1)]
        open_since = seconds[0] if written else open_since
        assert seconds[0] - open_since < max(1.0, min(10.0, 0.02 * seconds[0]))
    last = folder.part_ranges()[-1]
    assert last[1] - last[0] == 9


def test_what_a_killed_listing_left_is_no_other_content(folder: ArchiveFolder) -> None:
    begin(folder, ["a"])
    folder.parts.mkdir()
    assert folder.check_identity({"model": "x"}) is False
    folder.write_part(0, pa.table({"path": ["a"]}))
    with pytest.raises(UserError, match="folder with other files"):
        folder.check_identity({"model": "x"})
