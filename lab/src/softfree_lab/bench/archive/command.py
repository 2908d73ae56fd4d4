"""The parts of the benchmark, one after the other, and their record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from softfree.core.environment import describe_machine
from softfree.core.progress import console
from softfree_lab.bench.archive.setting import Bench, Measured
from softfree_lab.bench.options import ArchiveBenchOptions
from softfree_lab.records import markdown_table, write_record

PARTS = {
    "overhead": "overhead.overhead",
    "images": "throughput.throughput",
    "kills": "kills.kills",
    "ray": "ray_nodes.ray_nodes",
    "store": "store.store",
    "index": "index.index",
    "scaling": "scaling.scaling",
}
_SECONDS: dict[str, Callable[[ArchiveBenchOptions], float]] = {
    "overhead": lambda o: 30 + 0.3e-3 * o.rows,
    "images": lambda o: 60 + o.images * (0.005 + 1.1 / o.rate),
    "kills": lambda o: 20 + (o.kills / 2 + 2) * (10 + o.images / 20 / o.rate),
    "ray": lambda o: 150 + 8 * o.images / 20 / o.rate,
    "store": lambda o: 40 + o.images / 10 * (2.2 / o.rate + 0.02),
    "index": lambda o: 90 + 0.2e-3 * o.vectors,
    "scaling": lambda _: 30.0,
}
"""Seconds of a part, from measurements on two processors of 2.1 GHz that did nothing else."""


def bench_archive(options: ArchiveBenchOptions, run: str, data: str) -> str:
    """Measure ``softfree predict --out FOLDER`` and the index of features.

    Args:
        options: What to measure.
        run: A run on images.
        data: Folder with images that crops of 512 x 512 pixels are taken from.

    Returns:
        The measurements and the machine as Markdown.
    """
    rows: list[dict[str, Any]] = []
    _say_how_long(options)
    busy = os.getloadavg()[0]
    with TemporaryDirectory(dir=options.scratch, prefix="archive-") as scratch:
        bench = Bench(options, run, Path(data), Path(scratch))
        for name in options.parts:
            start = time.perf_counter()
            for what, value, unit in _part(name)(bench):
                console.print(f"{name}: {what}: {value:.4g} {unit}", highlight=False, soft_wrap=True)
                rows.append({"part": name, "what": what, "value": value, "unit": unit})
            console.print(f"{name}: took {(time.perf_counter() - start) / 60:.1f} minutes", highlight=False)
    table = pd.DataFrame(rows, columns=["part", "what", "value", "unit"])
    machine = describe_machine(len(os.sched_getaffinity(0)))
    text = markdown_table(table.columns, [[*row[:2], f"{row[2]:.4g}", row[3]] for row in table.to_numpy().tolist()])
    others = f"{busy:.1f} other processes were running when it began."
    if options.out is not None:
        recorded = vars(options) | {"scratch": None, "load_at_start": busy}
        write_record(options.out, table, recorded, machine=machine, text=f"{text}\n{machine}. {others}\n")
    return f"{text}\n{machine}. {others}\n"


def _part(name: str) -> Callable[[Bench], Iterator[Measured]]:
    module, _, function = PARTS[name].rpartition(".")
    part: Callable[[Bench], Iterator[Measured]] = getattr(
        import_module(f"softfree_lab.bench.archive.{module}"), function
    )
    return part


def _say_how_long(options: ArchiveBenchOptions) -> None:
    minutes = {name: _SECONDS[name](options) / 60 for name in options.parts}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    console.print(
        f"About {sum(minutes.values()):.0f} minutes, if the model predicts {options.rate:g} images/s: {parts}",
        highlight=False,
        soft_wrap=True,
    )
