"""A process that predicts blocks and writes their rows in parts."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList
from softfree.archive.predictor import Predictor, PredictorSettings
from softfree_runtime.core.errors import UserError

FLUSH_SECONDS = 10.0  # what a killed process may lose


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


def work(
    connection: Connection,
    root: Path,
    settings: PredictorSettings,
    open_predictor: Callable[[PredictorSettings], Predictor] = Predictor,
) -> None:
    """Predict the blocks that come over the connection until None comes; a UserError is sent instead of a report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which says when to stop
    try:
        writer = PartWriter(ArchiveFolder(root))
        inputs = InputList(writer.folder.inputs)
        predictor = open_predictor(settings)
        connection.send(None)  # ready
        while (block := connection.recv()) is not None:
            connection.send(_finish(block, inputs, predictor, writer))
        connection.send(writer.flush())
    except UserError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):  # the main process is gone
        pass


def _finish(block: Block, inputs: InputList, predictor: Predictor, writer: PartWriter) -> Finished:
    start, in_model = time.perf_counter(), predictor.model_seconds
    rows = predictor(inputs.read(block.first, block.last))
    predicted, in_model = time.perf_counter(), predictor.model_seconds - in_model
    statuses = Counter(rows.column("status").to_pylist())
    written = writer.add(block, rows)
    end = time.perf_counter()
    return Finished(block, written, statuses, (predicted - start - in_model, in_model, end - predicted))


class PartWriter:
    """Collects the rows of blocks, and writes a part every :data:`FLUSH_SECONDS`."""

    def __init__(self, folder: ArchiveFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self._blocks: list[Block] = []
        self._rows: list[pa.Table] = []
        self._since = clock()

    def add(self, block: Block, rows: pa.Table) -> list[Block]:
        """Add the rows of a block; return the blocks that were written."""
        rows = rows.add_column(0, "input", pa.array(range(block.first, block.last), pa.int64()))
        written = self.flush() if self._blocks and self._blocks[-1].last != block.first else []
        if not self._blocks:
            self._since = self._clock()
        self._blocks.append(block)
        self._rows.append(rows)
        if block.alone or self._clock() - self._since >= FLUSH_SECONDS:
            written += self.flush()
        return written

    def flush(self) -> list[Block]:
        """Write what is collected; return its blocks."""
        if not self._blocks:
            return []
        rows = pa.concat_tables(self._rows, promote_options="permissive")
        self.folder.write_part(self._blocks[0].first, rows)
        written, self._blocks, self._rows = self._blocks, [], []
        return written
