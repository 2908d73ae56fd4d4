"""Ray on this machine against the local engine, two nodes against one, and a node that dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import write_inputs
from softfree.archive.local import LocalEngine
from softfree.archive.tasks.predict import Predict
from softfree.archive.worker import Block, Finished
from softfree_lab.bench.archive.setting import BLOCK, Bench, Measured


def ray_nodes(bench: Bench) -> Iterator[Measured]:
    """Ray on this machine against the local engine, two nodes of one processor each against one, and a dead one."""
    folder, count = bench.fewer(), bench.fewer_count
    local, _ = bench.predict([str(folder)], bench.scratch / "local", "--workers", "2")
    ray, _ = bench.predict([str(folder)], bench.scratch / "ray", "--engine", "ray", "--workers", "2")
    yield Measured(f"{count:,} images, local engine, two processes, whole command", local, "s")
    yield Measured("Ray on the same machine, two actors, whole command with the start of its cluster", ray, "s")
    work = _Work(bench, folder, "local-rate")
    LocalEngine(work.archive.root, work.task, 2, work.add).run(work.blocks, lambda: True)
    yield Measured("local engine, two processes, after the start", work.rate(2), "images/s")
    for name, nodes, processors in (("one node of two processors", 1, 2), ("one node of one processor", 1, 1),
                                    ("two nodes of one processor", 2, 1)):  # fmt: skip
        work = _Work(bench, folder, f"nodes-{nodes}-{processors}")
        with _cluster(nodes, processors) as (cluster, _):
            _run(work, cluster)
        yield Measured(f"Ray, {name}, after the start", work.rate(nodes * processors), "images/s")
    yield from _killed(bench, folder)


def _killed(bench: Bench, folder: Path) -> Iterator[Measured]:
    """Kill one of two nodes after a third of the blocks."""
    work = _Work(bench, folder, "killed-node")
    with _cluster(2, 1) as (cluster, nodes):

        def kill() -> None:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

        work.after(len(work.blocks) // 3, kill)
        _run(work, cluster)
    done = work.archive.done(work.count)
    rows = sum(last + 1 - first for first, last in work.archive.part_ranges())
    yield Measured("one of two nodes killed: rows missing", float((~done).sum()), "rows")
    yield Measured("one of two nodes killed: rows doubled", float(rows - work.count), "rows")


class _Work:
    """A folder with inputs and blocks, and when each was finished."""

    def __init__(self, bench: Bench, folder: Path, name: str) -> None:
        self.archive = ArchiveFolder(bench.scratch / name)
        self.archive.parts.mkdir(parents=True)
        files = sorted(map(str, folder.iterdir()))
        write_inputs(self.archive.inputs, [(file, file, None) for file in files])
        self.count = len(files)
        self.task = Predict(bench.run, threads=1)
        size = max(1, min(BLOCK, self.count // 16))  # a rate needs several for each worker
        self.blocks = [Block(first, min(first + size, self.count)) for first in range(0, self.count, size)]
        self._times: list[tuple[float, int]] = []
        self._then: tuple[int, Callable[[], None]] | None = None

    def after(self, blocks: int, what: Callable[[], None]) -> None:
        """Do something once, when so many blocks are finished."""
        self._then = blocks, what

    def add(self, finished: Finished) -> None:
        """Note the time."""
        self._times.append((time.perf_counter(), len(finished.block)))
        if self._then is not None and len(self._times) >= self._then[0]:
            (_, what), self._then = self._then, None
            what()

    def rate(self, workers: int) -> float:
        """Return inputs per second after each worker has had its first block."""
        return sum(number for _, number in self._times[workers:]) / (self._times[-1][0] - self._times[workers - 1][0])


def _run(work: _Work, cluster: Any) -> None:
    from softfree.archive.ray_engine import RayEngine

    RayEngine(work.archive.root, work.task, None, work.add, cluster.address).run(work.blocks, lambda: True)


def _add_node(cluster: Any, processors: int, number: int) -> Any:
    """Start a node that runs on its own processors only: Ray counts them, but keeps no process to them."""
    mine = sorted(os.sched_getaffinity(0))
    first = number * processors % len(mine)
    os.sched_setaffinity(0, mine[first : first + processors])  # inherited by the raylet and what it starts
    try:
        return cluster.add_node(num_cpus=processors)
    finally:
        os.sched_setaffinity(0, mine)


@contextmanager
def _cluster(nodes: int, processors: int) -> Iterator[tuple[Any, list[Any]]]:
    """Start a head without processors and nodes, each in a raylet of its own; yield the cluster and the nodes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        added = [_add_node(cluster, processors, number) for number in range(nodes)]
        cluster.wait_for_nodes()
        yield cluster, added
    finally:
        ray.shutdown()
        cluster.shutdown()
