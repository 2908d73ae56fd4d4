"""The engine of many machines: Ray Data gives the blocks to actors on the nodes of a cluster.

The folder must be on storage that all nodes share: each actor writes the rows of its blocks there, so that nothing but
counts travels. What a dead node or process leaves open is found in the folder and tried again, the last time input by
input.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from softfree import __version__
from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList
from softfree.archive.local import OnFinished, give_up
from softfree.archive.remote import Fetcher
from softfree.archive.task import Task
from softfree.archive.worker import Block, Finished, PartWriter, finish_block
from softfree_runtime.core.errors import UserError

PASSES = 3
TRIES = 2  # of a block in a pass; Ray itself would try a poisoned file for ever


class BlockActor:
    """Handles blocks on a node: a callable for Ray Data."""

    def __init__(self, root: str, task: Task, folder: str) -> None:
        if os.path.isdir(folder):  # relative paths start from where the command was given
            os.chdir(folder)
        self.writer = PartWriter(ArchiveFolder(Path(root)))
        self.inputs = InputList(self.writer.folder.inputs)
        self.handler = task.open(Path(root))
        self.fetcher = Fetcher()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Handle a block and write its rows at once; return what to count, nothing if it was begun too often."""
        block = Block(int(row["first"]), int(row["last"]), alone=True)
        report = {"first": block.first, "last": block.last, "statuses": [], "counts": [], "seconds": []}
        if self.writer.folder.count_try(block.first) > TRIES:
            return report
        samples = self.inputs.read(block.first, block.last)
        finished = finish_block(block, samples, self.fetcher.begin(samples), self.handler, self.fetcher, self.writer)
        names = sorted(finished.statuses)
        counts = [finished.statuses[name] for name in names]
        return report | {"statuses": names, "counts": counts, "seconds": list(finished.seconds)}


class RayEngine:
    """Handles the missing blocks of a folder on a Ray cluster.

    Args:
        root: The folder, on storage that all nodes share.
        task: What to do.
        workers: Most actors at a time; None for one for each processor of the cluster, or each GPU.
        on_finished: Called with the report of each finished block.
        address: Of the cluster: ``auto``, ``ray://...``; None for one on this machine.
    """

    def __init__(
        self,
        root: Path,
        task: Task,
        workers: int | None,
        on_finished: OnFinished,
        address: str | None = None,
    ) -> None:
        self.root, self.task, self.workers, self.on_finished = root.resolve(), task, workers, on_finished
        self.address = address

    def run(self, blocks: Sequence[Block], may_go_on: Callable[[], bool]) -> None:
        """Handle blocks; see :meth:`softfree.archive.local.LocalEngine.run`.

        Raises:
            UserError: No cluster, or one with another version of softfree or another folder.
        """
        ray = _connect(self.address)
        self._check_nodes(ray)
        folder, left = ArchiveFolder(self.root), list(blocks)
        for number in range(PASSES):
            if number > 0:  # what died: input by input
                left = [Block(one, one + 1) for block in left for one in range(block.first, block.last)]
            folder.forget_tries()
            if not left or not self._run_once(ray, left, may_go_on):
                return
            done = folder.done(max(block.last for block in blocks))
            left = [block for block in left if not done[block.first : block.last].all()]
        for block in left:
            give_up(self.root, block.first, "in every try on the cluster", self.on_finished)

    def _run_once(self, ray: Any, blocks: Sequence[Block], may_go_on: Callable[[], bool]) -> bool:
        """Try blocks once, or ``TRIES`` times if the process dies; return whether all were tried."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # what is missing is tried again
        gpus = int(ray.cluster_resources().get("GPU", 0))
        most = self.workers or max(1, gpus or int(ray.cluster_resources().get("CPU", 1)))
        most = min(most, len(blocks))
        rows = [{"first": block.first, "last": block.last} for block in blocks]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            BlockActor,
            fn_constructor_args=(str(self.root), self.task, os.getcwd()),
            # From one on, Ray adds an actor only when it has queued enough blocks for those that it has.
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else 1,
        )
        for row in results.iter_rows():
            if row["statuses"]:
                block = Block(int(row["first"]), int(row["last"]))
                statuses = Counter(dict(zip(row["statuses"], map(int, row["counts"]), strict=True)))
                reading, model, writing = row["seconds"]
                self.on_finished(Finished(block, [block], statuses, (reading, model, writing)))
            if not may_go_on():
                return False
        return True

    def _check_nodes(self, ray: Any) -> None:
        """Ask each node for its version of softfree and whether it sees the folder."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = ray.remote(num_cpus=0, max_retries=0)(_describe_node)
        answers = {
            node["NodeManagerAddress"]: asked.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(self.root))
            for node in ray.nodes()
            if node["Alive"]
        }
        for address, answer in answers.items():
            try:
                version, sees_folder = ray.get(answer, timeout=300)
            except Exception as error:  # softfree is missing, or the node is
                first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise UserError(f"the Ray node {address} cannot run softfree {__version__} ({first[:200]})") from None
            if version != __version__:
                raise UserError(
                    f"the Ray node {address} has softfree {version}, and this machine {__version__}; install the same"
                )
            if not sees_folder:
                raise UserError(
                    f"the Ray node {address} does not see {self.root}; choose an --out on storage that all nodes share"
                )


def _describe_node(root: str) -> tuple[str, bool]:
    from softfree import __version__ as version
    from softfree.archive.folder import ArchiveFolder as Folder

    return version, Folder(Path(root)).inputs.is_file()


def _connect(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray
    import ray.data

    if not ray.is_initialized():
        try:
            own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--ray-address {address}: no cluster answers ({first[:200]})") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its lines would hide the progress bar
    return ray
