"""What many machines would do: a model of the pipeline, fitted to the measured stages of one.

Each machine reads, decodes and prepares, and predicts at the same time, so that the slowest of these decides. Before
and after them one process lists the inputs and joins the rows, which no machine makes faster. The store gives all
machines together what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from softfree_lab.bench.archive.setting import Bench, Measured
from softfree_lab.bench.options import ArchiveBenchOptions
from softfree_runtime.core.errors import UserError

ALONE = 1e-4  # seconds
AT_ONCE = 8  # files that a process copies at the same time, as in softfree.archive.remote


@dataclass(frozen=True)
class Stages:
    """Seconds that one processor core works on an image, and the image's size.

    Attributes:
        prepare: Reading, decoding and preparing.
        model: Of the model on this machine's processor.
        write: Writing its row.
        bytes: Size of the file.
        alone: Listing it and joining its row, in one process before and after all others.
    """

    prepare: float
    model: float
    write: float
    bytes: float
    alone: float


@dataclass(frozen=True)
class Forecast:
    """What a number of machines would do.

    Attributes:
        rates: Images per second that each stage could do, by its name; the least is the rate.
        seconds: For all inputs, with start, listing and joining.
        together: Seconds of these in which all machines work.
    """

    rates: dict[str, float]
    seconds: float
    together: float

    @property
    def limit(self) -> str:
        """What limits the whole."""
        if self.seconds > 2 * self.together:
            return "start, listing and joining by one process"
        return min(self.rates, key=lambda name: self.rates[name])


def forecast(stages: Stages, options: ArchiveBenchOptions, machines: int) -> Forecast:
    """Predict what machines with GPUs would do."""
    gpu = options.gpu_rate or options.gpu_speedup / stages.model
    link = options.network_gbit * 1e9 / 8
    waiting = options.store_latency / 1000 + stages.bytes * AT_ONCE / (link / options.cores)
    rates = {
        "decoding and preparing": machines * options.cores / (stages.prepare + stages.write),
        "GPUs": machines * options.gpus * gpu,
        "network of the machines": machines * link / stages.bytes,
        "bandwidth of the object store": options.store_gbit * 1e9 / 8 / stages.bytes,
        "latency of the object store": machines * options.cores * AT_ONCE / waiting,
    }
    together = options.inputs / min(rates.values())
    return Forecast(rates, together + options.start + options.inputs * stages.alone, together)


def scaling(bench: Bench) -> Iterator[Measured]:
    """Fit the model to the archive that part ``images`` predicted, and ask it about many machines."""
    options, stages = bench.options, _fitted(bench)
    yield Measured("measured: reading, decoding and preparing an image, one core", 1000 * stages.prepare, "ms")
    yield Measured("measured: the model, one core", 1000 * stages.model, "ms")
    yield Measured("measured: writing its row", 1000 * stages.write, "ms")
    yield Measured("listing it and joining its row, by one process", 1000 * stages.alone, "ms")
    yield Measured("measured: size of an image", stages.bytes / 1024, "KiB")
    yield Measured("assumed: cores of a machine", options.cores, "")
    yield Measured("assumed: GPUs of a machine", options.gpus, "")
    yield Measured("assumed: the model on a GPU", options.gpu_rate or options.gpu_speedup / stages.model, "images/s")
    yield Measured("assumed: network of a machine", options.network_gbit, "Gbit/s")
    yield Measured("assumed: the object store for all together", options.store_gbit, "Gbit/s")
    yield Measured("assumed: latency of the object store", options.store_latency, "ms")
    yield Measured("assumed: start of the cluster and processes", options.start, "s")
    for machines in (1, 10, 100):
        found = forecast(stages, options, machines)
        name = f"{machines} machine{'s' * (machines > 1)}"
        for stage, rate in found.rates.items():
            yield Measured(f"{name}: {stage} could do", rate, "images/s")
        whole = f"{name}: {options.inputs:,} images; limited by {found.limit}"
        yield Measured(whole, found.seconds / 3600, "hours")
        yield Measured(f"{name}: the same", options.inputs / found.seconds, "images/s")


def _fitted(bench: Bench) -> Stages:
    """Return the stages of the archive of part ``images``; it is made here if that part was left out."""
    if bench.progress is None:
        out = bench.scratch / "of-few"
        if not out.is_dir():
            bench.predict([str(bench.few())], out)
        bench.progress = out / "progress.jsonl"
    last = json.loads(bench.progress.read_text().splitlines()[-1])
    if not last["done"]:
        raise UserError(f"{bench.progress}: nothing was predicted; the stages cannot be measured")
    sizes = [path.stat().st_size for path in bench.few().iterdir()]
    alone = bench.options.alone / 1000 if bench.options.alone is not None else bench.alone or ALONE
    prepare, model, write = (last[f"{stage}_seconds"] / last["done"] for stage in ("reading", "model", "writing"))
    return Stages(prepare, model, write, sum(sizes) / len(sizes), alone)
