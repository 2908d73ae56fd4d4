"""What the archive itself costs: rows of a stub that only fills an array."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import write_inputs
from softfree.archive.local import LocalEngine
from softfree.archive.tasks.predict import Predict
from softfree.archive.worker import Block
from softfree_lab.bench.archive.setting import BLOCK, Bench, Measured


class _Filled:
    """Fills arrays in the place of a decoder and a model."""

    model_seconds = 0.0

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __call__(self, samples: Sequence[Any], numbers: Sequence[int]) -> pa.Table:
        scores = np.array([np.full((8, 8), score).mean() for score in self.random.random(len(samples))])
        columns = {
            "path": [name for name, _, _ in samples],
            "status": ["ok"] * len(samples),
            "reason": [""] * len(samples),
            "p_ill": scores,
            "p_well": 1 - scores,
            "unusual": scores > 0.95,
        }
        return pa.table(columns)


class _Fill(Predict):
    """The stub as a task."""

    def open(self, root: Path) -> _Filled:  # type: ignore[override]
        return _Filled()


def overhead(bench: Bench) -> Iterator[Measured]:
    """Rows of a stub that only fills an array: what the archive itself costs."""
    from softfree.archive.summary import write_summary
    from softfree.core.environment import current_memory

    memory = {}
    for count in (bench.options.rows // 10, bench.options.rows):
        folder = ArchiveFolder(bench.scratch / f"filled-{count}")
        samples = [(f"store/{n // 1000:05}/{n:09}.dcm", f"/archive/store/{n // 1000:05}/{n:09}.dcm", None)
                   for n in range(count)]  # fmt: skip
        start = time.perf_counter()
        write_inputs(folder.inputs, samples)
        listed = time.perf_counter() - start
        del samples
        before, start = current_memory(), time.perf_counter()
        blocks = (Block(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))
        engine = LocalEngine(folder.root, _Fill("stub.onnx"), 1, lambda _: None)
        engine.run(blocks, lambda: True)
        seconds, start = time.perf_counter() - start, time.perf_counter()
        folder.write_results(csv=False)
        write_summary(folder, _Fill("stub.onnx"))
        joined = time.perf_counter() - start
        memory[count] = current_memory() - before
        if count == bench.options.rows:
            yield Measured(f"{count:,} rows of a stub, one process: time a row", 1000 * seconds / count, "ms")
            yield Measured("listing a row, by one process", 1000 * listed / count, "ms")
            yield Measured("joining and summarizing a row, by one process", 1000 * joined / count, "ms")
            bench.alone = (listed + joined) / count
            size = folder.inputs.stat().st_size + sum(path.stat().st_size for path in folder.parts.iterdir())
            yield Measured("list of inputs and parts on disk, a row", size / count, "bytes")
            yield Measured("parts", float(len(folder.part_ranges())), "files")
    small, large = (value / 2**20 for value in memory.values())
    yield Measured(f"growth of the main process, {bench.options.rows // 10:,} rows", small, "MiB")
    yield Measured(f"growth of the main process, {bench.options.rows:,} rows", large, "MiB")
