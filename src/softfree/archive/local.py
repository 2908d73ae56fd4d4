"""The engine of one machine: processes that handle blocks; a process that dies takes nothing along.

The inputs of a process that died are tried again one by one: the one that ends a process a second time becomes a row
with a reason.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList
from softfree.archive.remote import Fetcher
from softfree.archive.task import Task, failed_row
from softfree.archive.worker import Block, Finished, PartWriter, finish_block, work
from softfree_runtime.core.errors import ReadError, UserError

AHEAD = 2  # blocks that a process has before it: it never waits
TRIES = 2

OnFinished = Callable[[Finished], None]


class InlineEngine:
    """Handles the missing blocks of a folder in this process: nothing to start, and nothing is isolated.

    Args:
        root: The folder.
        task: What to do.
        on_finished: Called with the report of each finished block.
    """

    def __init__(self, root: Path, task: Task, on_finished: OnFinished) -> None:
        self.root, self.task, self.on_finished = root, task, on_finished

    def run(self, blocks: Iterable[Block], may_go_on: Callable[[], bool]) -> None:
        """Handle blocks; see :meth:`LocalEngine.run`."""
        writer = PartWriter(ArchiveFolder(self.root))
        inputs, fetcher = InputList(writer.folder.inputs), Fetcher()
        try:
            handler = self.task.open(self.root)
            for block in blocks:
                if not may_go_on():
                    break
                samples = inputs.read(block.first, block.last)
                self.on_finished(finish_block(block, samples, fetcher.begin(samples), handler, fetcher, writer))
        finally:
            writer.flush()
            fetcher.close()


class _Worker:
    """A process and the blocks that it has not written yet."""

    def __init__(self, root: Path, task: Task) -> None:
        context = multiprocessing.get_context("spawn")  # forks of torch may hang
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=work, args=(theirs, root, task, os.getpid()))
        self.process.start()
        theirs.close()
        self.unwritten: list[Block] = []
        self.waiting = 0  # blocks that it has not reported
        self.is_ready = self.is_stopping = False

    def give(self, block: Block | None) -> None:
        """Send a block; None stops the process once it has written all."""
        if block is None:
            self.is_stopping = True
        else:
            self.unwritten.append(block)
            self.waiting += 1
        with suppress(OSError):  # it died: seen when its connection ends
            self.connection.send(block)


class LocalEngine:
    """Handles the missing blocks of a folder with several processes.

    Args:
        root: The folder.
        task: What to do.
        workers: Number of processes.
        on_finished: Called with the report of each finished block.
    """

    def __init__(self, root: Path, task: Task, workers: int, on_finished: OnFinished) -> None:
        self.root, self.task, self.count, self.on_finished = root, task, workers, on_finished
        self._todo: deque[Block] = deque()
        self._deaths: Counter[int] = Counter()
        self._workers: list[_Worker] = []
        self._early = 0  # processes that died before they were ready

    def run(self, blocks: Iterable[Block], may_go_on: Callable[[], bool]) -> None:
        """Handle blocks until none is left, or ``may_go_on`` says no; what was begun is finished and written.

        Raises:
            UserError: The model cannot be used, or the results cannot be written.
        """
        self._todo.extend(blocks)
        try:
            self._workers = [self._start() for _ in range(min(self.count, len(self._todo)))]
            while self._workers:
                go_on = may_go_on()
                for worker in self._workers:
                    self._feed(worker, go_on)
                self._listen()
        except KeyboardInterrupt:
            self._drain()
            raise
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _drain(self, patience: float = 60.0) -> None:
        """Let the processes finish and write what they have begun."""
        self._todo.clear()
        end = time.monotonic() + patience
        while self._workers and time.monotonic() < end:
            for worker in self._workers:
                self._feed(worker, go_on=False)
            self._listen()

    def _start(self) -> _Worker:
        return _Worker(self.root, self.task)

    def _feed(self, worker: _Worker, go_on: bool) -> None:
        if worker.is_stopping or not worker.is_ready:
            return
        alone = any(block.alone for block in worker.unwritten)
        while go_on and self._todo and not alone and worker.waiting < AHEAD:
            block = self._todo.popleft()
            worker.give(block)
            alone = block.alone
        if worker.waiting == 0 and (not go_on or not self._todo):
            worker.give(None)

    def _listen(self) -> None:
        connections: dict[object, _Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(connections), timeout=0.5):  # type: ignore[arg-type]
            worker = connections[connection]
            try:
                assert isinstance(connection, Connection)
                message = connection.recv()
            except (EOFError, OSError):
                self._bury(worker)
                continue
            self._take(worker, message)

    def _take(self, worker: _Worker, message: object) -> None:
        if isinstance(message, UserError):
            raise message
        if isinstance(message, Finished):
            worker.waiting -= 1
            written = set(message.written)
            worker.unwritten = [block for block in worker.unwritten if block not in written]
            self.on_finished(message)
        elif message is None:
            worker.is_ready, self._early = True, 0
        else:  # the last blocks were written: it has stopped
            self._workers.remove(worker)
            worker.process.join()

    def _bury(self, worker: _Worker) -> None:
        """Return the blocks of a dead process to the queue, input by input; a guilty input gets its row."""
        worker.process.join()
        self._workers.remove(worker)
        if not worker.is_ready:
            self._early += 1
            if self._early >= 3:
                raise UserError(
                    f"the processes that {self.task.words.do} end at once (exit code {worker.process.exitcode});"
                    " there may be too little memory: try --workers 1"
                )
        done = ArchiveFolder(self.root).done(max((block.last for block in worker.unwritten), default=0))
        suspects = [block for block in worker.unwritten if not done[block.first : block.last].all()]
        if len(suspects) == 1 and len(suspects[0]) == 1:
            number = suspects[0].first
            self._deaths[number] += 1
            if self._deaths[number] >= TRIES:
                code = worker.process.exitcode
                how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                give_up(self.root, number, f"{how}, {TRIES} times", self.on_finished)
                suspects = []
        singles = [Block(number, number + 1, alone=True) for block in suspects
                   for number in range(block.first, block.last)]  # fmt: skip
        self._todo.extendleft(reversed(singles))
        if self._todo:
            self._workers.append(self._start())


def give_up(root: Path, number: int, how: str, on_finished: OnFinished) -> None:
    """Write the row of an input that ended each process that read it."""
    folder = ArchiveFolder(root)
    (sample,) = InputList(folder.inputs).read(number, number + 1)
    error = ReadError(f"the process that read it ended ({how})", "crashed", path=sample[0])
    block = Block(number, number + 1, alone=True)
    PartWriter(folder).add(block, failed_row(sample, error))
    on_finished(Finished(block, [block], Counter({"crashed": 1})))
