"""``softfree-lab bench cases``: a training step on a case of several images, against the same images one by one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from softfree.core.environment import describe_machine
from softfree.core.precision import products_in
from softfree.models import create_model
from softfree.models.registry import create_case_model
from softfree_lab.bench.cases import BenchCase
from softfree_lab.bench.maps import processor_clock
from softfree_lab.bench.options import CasesBenchOptions
from softfree_lab.bench.worker import Step, Worker
from softfree_lab.records import markdown_table, to_stderr, write_record
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import HEADER

TOGETHER, ALONE = "one case", "one by one"
MEASURED = ("way", "images", "side", "tokens", "cpu_seconds", "to_alone", "peak_gib")


@dataclass(frozen=True)
class ImagesCase(BenchCase):
    """``batch`` images of ``size`` pixels a side; ``method`` is :data:`TOGETHER` or :data:`ALONE`.

    Attributes:
        model: Name of a model of images.
        mlp_chunk: Tokens that an MLP processes at a time.
    """

    model: str = ""
    mlp_chunk: int | None = None


def bench_cases(options: CasesBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure both ways in turn, and return the table as Markdown.

    Raises:
        UserError: Numbers out of range, or a way that failed.
    """
    if min(options.images, options.side, options.rounds) < 1:
        raise UserError("--images, --side and --rounds: expected 1 or more")
    ways = [
        ImagesCase("model", way, options.side, options.precision, "training", options.images, model=options.model,
                   mlp_chunk=options.mlp_chunk)
        for way in (TOGETHER, ALONE)
    ]  # fmt: skip
    workers = [Worker(way, options.threads, make_step, processor_clock) for way in ways]
    try:
        for worker in workers:  # one after the other: both together may not fit in memory
            log(f"first run: {worker.case.method}")
            if reason := worker.ready().get("failed"):
                raise UserError(f"{worker.case.method}: {reason}")
        seconds = [[worker.run() for worker in workers] for _ in range(options.rounds)]
    finally:
        stopped = [worker.stop() for worker in workers if worker.process.is_alive()]
    medians = [statistics.median(times) for times in zip(*seconds, strict=True)]
    tokens = options.images * math.ceil(options.side / _patch(options.model)) ** 2
    rows = pd.DataFrame(
        [
            (way.method, options.images, options.side, tokens, median, median / medians[1], peak["peak"] / 2**30)
            for way, median, peak in zip(ways, medians, stopped, strict=True)
        ],
        columns=list(MEASURED),
    )
    machine = describe_machine(options.threads)
    text = f"{options.model}, a training step on noise, with recomputed activations; {machine}.\n\n{_table(rows)}"
    if options.out is not None:
        write_record(options.out / "cases.csv", rows, vars(options), machine=machine, text=text)
    return text


def make_step(case: ImagesCase) -> Step:
    """Return a function that runs forward and backward over all images, joined to a case or one by one."""
    torch.manual_seed(0)
    options = {"img_size": case.size, "in_chans": 1, "num_classes": 2, "stem": "pool", "pool": "mean_topk"}
    options |= {"mlp_chunk": case.mlp_chunk}
    joined = case.method == TOGETHER
    shape = (1, case.size, case.size)
    if joined:
        model = create_case_model(case.model, {"shape": shape}, **options)
        samples = torch.zeros(1, 1, case.batch, math.prod(shape) + HEADER)
        samples[..., :-HEADER].normal_()
    else:
        model = create_model(case.model, **options)
        samples = torch.randn(case.batch, 1, *shape)
    model.train().set_grad_checkpointing(True)

    def step() -> None:
        for sample in samples:
            with products_in(case.precision, sample.device):
                logits = model(sample)
            logits.float().square().sum().backward()

    return step


def _patch(model: str) -> int:
    patch: int = create_model(model, depth=1).patch_size
    return patch


def _table(rows: pd.DataFrame) -> str:
    lines = [
        (row.way, f"{row.images} of {row.side} x {row.side}", f"{row.tokens:,}", f"{row.cpu_seconds:.1f}",
         f"{row.to_alone:.2f}", f"{row.peak_gib:.2f}")
        for row in rows.itertuples()
    ]  # fmt: skip
    return markdown_table(("images", "number", "tokens", "CPU s", "to one by one", "peak, GiB"), lines)
