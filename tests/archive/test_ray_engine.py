"""Ray: the rows of the local engine, whatever dies."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import write_inputs
from softfree.archive.worker import Block, Finished
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Count:
    """A task: fills in the length of each name, slowly."""

    pause: float

    def open(self, root: Path) -> Numbers:
        return Numbers(self.pause)


class Numbers:
    """Fills in the length of each name; a file "poison" ends the process."""

    model_seconds = 0.0

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def __call__(self, samples, numbers) -> pa.Table:
        names = [name for name, _, _ in samples]
        if "poison" in names:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(self.pause)
        rows = [
            {"path": name, "status": "ok", "reason": "", "value": float(len(name)), "pid": os.getpid()}
            for name in names
        ]
        return pa.Table.from_pylist(rows)


@pytest.fixture
def cluster():
    """A head without processors, and two nodes of one processor each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def engine_of(folder: ArchiveFolder, cluster, pause: float, seen: list[Finished]):
    from softfree.archive.ray_engine import RayEngine

    return RayEngine(folder.root, Count(pause), None, seen.append, cluster.address)


def test_a_node_that_dies_and_a_poisoned_file(cluster, tmp_path: Path) -> None:
    made, nodes = cluster
    names = [f"{number}.png" for number in range(40)]
    names[17] = "poison"
    folder = ArchiveFolder(tmp_path / "archive")
    write_inputs(folder.inputs, [(name, name, None) for name in names])
    seen: list[Finished] = []

    def may_go_on() -> bool:
        if len(seen) == 2 and nodes:
            made.remove_node(nodes.pop(), allow_graceful=False)
            made.add_node(num_cpus=1)
        return True

    blocks = [Block(first, first + 4) for first in range(0, 40, 4)]
    engine_of(folder, made, 0.5, seen).run(blocks, may_go_on)
    assert not nodes[1:]
    rows = pa.concat_tables(list(folder.rows()), promote_options="permissive").to_pylist()
    assert [row["input"] for row in rows] == list(range(40))
    assert Counter(row["status"] for row in rows) == {"ok": 39, "crashed": 1}
    assert rows[17]["status"] == "crashed"
    assert [row["value"] for row in rows if row["status"] == "ok"] == [float(len(n)) for n in names if n != "poison"]


def test_all_processors_work_from_the_start(cluster, tmp_path: Path) -> None:
    """Ray would begin with one actor, and few blocks end before it adds another."""
    folder = ArchiveFolder(tmp_path / "archive")
    write_inputs(folder.inputs, [(f"{number}", f"{number}", None) for number in range(12)])
    seen: list[Finished] = []
    engine_of(folder, cluster[0], 1.0, seen).run([Block(one, one + 1) for one in range(12)], lambda: True)
    assert len(seen) == 12
    rows = pa.concat_tables(list(folder.rows())).to_pylist()
    assert len({row["pid"] for row in rows[:4]}) == 2


def test_nodes_without_the_folder_and_no_cluster(cluster, tmp_path: Path, monkeypatch) -> None:
    made, _ = cluster
    folder = ArchiveFolder(tmp_path / "archive")
    with pytest.raises(UserError, match="does not see"):
        engine_of(folder, made, 0, []).run([Block(0, 1)], lambda: True)
    write_inputs(folder.inputs, [("a", "a", None)])
    monkeypatch.setattr("softfree.archive.ray_engine.__version__", "9.9.9")
    with pytest.raises(UserError, match=r"has softfree .*, and this machine 9\.9\.9"):
        engine_of(folder, made, 0, []).run([Block(0, 1)], lambda: True)
