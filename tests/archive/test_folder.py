"""The folder of bulk work."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.archive.test_ray_engine import Count

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import write_inputs
from softfree.archive.ray_engine import TRIES, BlockActor


def test_tries_are_counted_by_any_process_and_forgotten(tmp_path: Path) -> None:
    folder, other = ArchiveFolder(tmp_path), ArchiveFolder(tmp_path)
    assert [folder.count_try(8), other.count_try(8), folder.count_try(9)] == [1, 2, 1]
    folder.forget_tries()
    assert other.count_try(8) == 1


def test_parts_that_overlap_give_each_input_one_row(tmp_path: Path) -> None:
    """With the columns of the table at their own rows."""
    folder = ArchiveFolder(tmp_path)
    names = list("abcdefgh")
    write_inputs(folder.inputs, [(name, name, None) for name in names], pa.table({"label": [f"of {n}" for n in names]}))
    folder.parts.mkdir()
    for first, last in ((0, 3), (1, 2), (2, 5), (2, 4), (5, 8)):
        folder.write_part(first, pa.table({"input": range(first, last), "path": names[first:last]}))
    assert folder.write_results(csv=False) == 8
    rows = pq.read_table(folder.results).to_pylist()
    assert rows == [{"input": n, "path": name, "label": f"of {name}"} for n, name in enumerate(names)]


def test_a_block_that_was_begun_too_often_is_left_alone(tmp_path: Path) -> None:
    """Its process may have died in each try: it is then handled input by input, in another pass."""
    folder = ArchiveFolder(tmp_path)
    write_inputs(folder.inputs, [("a.png", "a.png", None), ("bb.png", "bb.png", None)])
    folder.parts.mkdir()
    for _ in range(TRIES):
        folder.count_try(0)
    actor = BlockActor(str(tmp_path), Count(0.0), str(tmp_path))
    assert actor({"first": 0, "last": 1})["statuses"] == []
    assert actor({"first": 1, "last": 2})["statuses"] == ["ok"]
    assert folder.done(2).tolist() == [False, True]
