"""A process that handles blocks of inputs and writes their rows in parts."""

from __future__ import annotations

import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList
from softfree.archive.remote import Copies, Fetcher
from softfree.archive.task import Handler, Task, failed_row
from softfree.archive.watch import handle
from softfree.core.orphans import end_with
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import name_of

FLUSH_SECONDS = 10.0  # what a killed process may lose,
FLUSH_SHARE = 0.02  # and of its own work, so that one that is killed again and again gets on


@dataclass(frozen=True)
class Block:
    """Inputs ``first`` to ``last``, without the last; ``alone``: one that may have ended a process, written at once."""

    first: int
    last: int
    alone: bool = False

    def __len__(self) -> int:
        return self.last - self.first


@dataclass
class Finished:
    """What a process says after each block.

    Attributes:
        block: The block.
        written: Blocks that are in a part now, this one or earlier ones, too.
        statuses: How many inputs have which status.
        seconds: Time for reading and preparing, in the model, and writing.
    """

    block: Block
    written: list[Block] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)


def work(connection: Connection, root: Path, task: Task, parent: int) -> None:
    """Handle the blocks that come over the connection until None comes; a UserError is sent instead of a report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which says when to stop
    fetcher = Fetcher()
    end_with(parent, fetcher.remove_folder)  # the lock on the folder has ended with it
    try:
        writer = PartWriter(ArchiveFolder(root))
        inputs = InputList(writer.folder.inputs)
        handler = task.open(root)
        connection.send(None)  # ready
        for block, samples, copies in _blocks(connection, inputs, fetcher):
            connection.send(finish_block(block, samples, copies, handler, fetcher, writer))
        connection.send(writer.flush())
    except UserError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):  # the main process is gone
        pass
    finally:
        fetcher.close()


def _blocks(
    connection: Connection, inputs: InputList, fetcher: Fetcher
) -> Iterator[tuple[Block, list[NamedSource], Copies]]:
    """Yield the blocks that come, with their samples; those of the next one are copied meanwhile."""
    waiting: deque[tuple[Block, list[NamedSource], Copies]] = deque()
    is_open = True
    while is_open or waiting:
        while is_open and (not waiting or connection.poll()):
            if (block := connection.recv()) is None:
                is_open = False
                break
            samples = inputs.read(block.first, block.last)
            waiting.append((block, samples, fetcher.begin(samples)))
        if waiting:
            yield waiting.popleft()


def finish_block(
    block: Block,
    samples: list[NamedSource],
    copies: Copies,
    handler: Handler,
    fetcher: Fetcher,
    writer: PartWriter,
) -> Finished:
    """Handle a block, whose remote files are being copied, and add its rows to the writer."""
    start, in_model = time.perf_counter(), handler.model_seconds
    local, failed = fetcher.local(samples, copies)
    numbers = [block.first + number for number in local]
    rows = _in_order(handle(handler, list(local.values()), numbers) if local else None, list(local), samples, failed)
    rows = _with_addresses(rows, samples, local)
    fetcher.remove(copies)
    handled, in_model = time.perf_counter(), handler.model_seconds - in_model
    statuses = Counter(rows.column("status").to_pylist())
    written = writer.add(block, rows)
    end = time.perf_counter()
    return Finished(block, written, statuses, (handled - start - in_model, in_model, end - handled))


def _in_order(
    handled: pa.Table | None, numbers: list[int], samples: Sequence[NamedSource], failed: Mapping[int, ReadError]
) -> pa.Table:
    """Return the rows of handled samples, whose numbers are given, and of failed ones in the order of all."""
    if handled is not None and not failed:
        return handled
    tables = [failed_row(samples[number], error) for number, error in failed.items()]
    rows = pa.concat_tables([*([] if handled is None else [handled]), *tables], promote_options="permissive")
    return rows.take(np.argsort([*numbers, *failed]))


def _with_addresses(rows: pa.Table, samples: Sequence[NamedSource], local: Mapping[int, NamedSource]) -> pa.Table:
    """Name the addresses instead of their copies in the reasons."""
    reasons = rows.column("reason").to_pylist()
    changed = False
    for number, (_, source, _) in local.items():
        if source is not samples[number][1] and reasons[number]:
            copy, address = name_of(source), name_of(samples[number][1])  # type: ignore[arg-type]
            reasons[number] = reasons[number].replace(copy, address)
            changed = True
    if not changed:
        return rows
    return rows.set_column(rows.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))


class PartWriter:
    """Collects the rows of blocks, and writes a part every :data:`FLUSH_SECONDS`, at first more often."""

    def __init__(self, folder: ArchiveFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self._blocks: list[Block] = []
        self._rows: list[pa.Table] = []
        self._begun = self._since = clock()

    def add(self, block: Block, rows: pa.Table) -> list[Block]:
        """Add the rows of a block; return the blocks that were written."""
        rows = rows.add_column(0, "input", pa.array(range(block.first, block.last), pa.int64()))
        written = self.flush() if self._blocks and self._blocks[-1].last != block.first else []
        self._blocks.append(block)
        self._rows.append(rows)
        now = self._clock()
        if block.alone or now - self._since >= min(FLUSH_SECONDS, FLUSH_SHARE * (now - self._begun)):
            written += self.flush()
        return written

    def flush(self) -> list[Block]:
        """Write what is collected; return its blocks."""
        if not self._blocks:
            return []
        rows = pa.concat_tables(self._rows, promote_options="permissive")
        self.folder.write_part(self._blocks[0].first, rows)
        written, self._blocks, self._rows = self._blocks, [], []
        self._since = self._clock()
        return written
