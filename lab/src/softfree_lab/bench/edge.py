"""``softfree-lab bench edge``: exported models compared with softmax and with PyTorch, all in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pandas as pd

from softfree.core.environment import describe_machine
from softfree.core.memory import available_or_assumed
from softfree.models.encoder import Block
from softfree_lab.bench.edge_cases import INDUCTOR, PYTORCH, STANDARD, EdgeCase, EdgeWorker, attention_of, make_model
from softfree_lab.bench.edge_files import TOLERANCES, EdgeFiles, read_calibration
from softfree_lab.bench.edge_report import clock_of, edge_tables, plot_edge, with_ratios
from softfree_lab.bench.measure import Budget, predicted_seconds, run_group
from softfree_lab.bench.options import EdgeBenchOptions
from softfree_lab.records import to_stderr, write_record

FIELDS = ("method", "runtime", "precision", "threads", "size", "status", "reason", "error")
MEASURED = ("ms", "ms_low", "ms_high", "cpu_ms", "runs", "peak_mib", "file_mb", "joules")


def bench_edge(options: EdgeBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Export, verify against PyTorch, and measure; write the files after each side and return the tables as Markdown.

    Raises:
        UserError: An unknown method, or calibration images that cannot be read.
    """
    for method in options.methods:
        attention_of(method)
    images, description = read_calibration(options.images, options.calibration_count)
    if "int8" in options.precisions:
        log(description)
    budget = Budget(options.seconds, options.limit)
    rows: list[dict[str, object]] = []
    text = ""
    with TemporaryDirectory() as folder:
        files = EdgeFiles(Path(folder), images, log)
        for threads in _threads(options):
            for side in sorted(options.sides):
                log(f"side {side}, {threads} threads")
                rows += _measure_side(_cases(options, side, threads), files, budget, rows)
                text = _write(pd.DataFrame(rows), options)
    return text


def _threads(options: EdgeBenchOptions) -> list[int]:
    if options.threads is not None:
        return [options.threads]
    return sorted({1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1})


def _cases(options: EdgeBenchOptions, side: int, threads: int) -> list[EdgeCase]:
    wanted = [
        (runtime, precision)
        for runtime in options.runtimes
        for precision in options.precisions
        if runtime != INDUCTOR or precision == "fp32"
    ]
    return [
        EdgeCase("model", method, side, precision, model=options.model, runtime=runtime, threads=threads)
        for method in options.methods
        for runtime, precision in [(PYTORCH, "fp32"), *wanted]
        if not (method.endswith(STANDARD) and runtime != "onnxruntime")
    ]


def _measure_side(
    cases: Sequence[EdgeCase], files: EdgeFiles, budget: Budget, before: list[dict[str, object]]
) -> list[dict[str, object]]:
    """Run the cases of one side and number of threads in turn, like :func:`~softfree_lab.bench.measure.measure`."""

    def check(case: EdgeCase) -> tuple[EdgeCase, float]:
        case = replace(case, file=files.file(case))
        return case, files.difference(case)

    rows = run_group(
        cases,
        budget,
        together=sum(map(estimated_bytes, cases)) < available_or_assumed() / 2,
        skip_reason=lambda case: _reason_to_skip(case, budget, before),
        check=check,
        start=EdgeWorker,
        reference="PyTorch",
        tolerances=TOLERANCES,
    )
    return [{name: row.get(name) for name in (*FIELDS, *MEASURED)} for row in rows]


def _reason_to_skip(case: EdgeCase, budget: Budget, before: list[dict[str, object]]) -> str:
    need, have = estimated_bytes(case), available_or_assumed()
    if need > 0.6 * have:
        return f"needs about {need / 2**30:.1f} GiB, but {have / 2**30:.1f} are free"
    fields = ("method", "runtime", "precision", "threads")
    smaller = [row for row in before if all(row[name] == getattr(case, name) for name in fields)]
    if smaller and smaller[-1]["status"] == "skipped":
        return "already skipped at a smaller side"
    clock = clock_of(case.threads)
    done = [(float(str(row["size"])), float(str(row[clock])) / 1e3) for row in smaller if row["status"] == "ok"]
    seconds = predicted_seconds(done, case.size)
    return f"would take about {seconds:.0f} s per run" if seconds > budget.limit else ""


def estimated_bytes(case: EdgeCase) -> float:
    """Estimate generously the memory of a case: weights as file and as tensors, pixels, and the largest activations."""
    model = make_model(case.method, case.model)
    block = cast(Block, model.blocks[0])
    tokens = (case.size / model.patch_size) ** 2
    scores = 3 * block.attn.num_heads * tokens**2 if case.method.endswith(STANDARD) else 0
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    return 3 * weights + 4 * (9 * case.size**2 + 3 * tokens * block.hidden + scores)


def _write(rows: pd.DataFrame, options: EdgeBenchOptions) -> str:
    rows = with_ratios(rows)
    machine = describe_machine(options.threads or os.cpu_count())
    title = f"Models of size {options.model}, random weights, batch 1"
    text = edge_tables(rows, f"{title}; {machine}.")
    if options.out is None:
        return text
    recorded = vars(options) | {"images": options.images and "a folder of images"}
    libraries = ("onnx", "onnxruntime")
    write_record(options.out / "edge.csv", rows, recorded, machine=machine, text=text, libraries=libraries)
    if (rows["status"] == "ok").any():
        plot_edge(options.out / "edge.png", rows, f"{title}\n{machine}")
    return text
