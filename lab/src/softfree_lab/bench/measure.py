"""Measuring cases in turn, so that other load affects all of them alike; cases that do not fit are skipped."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import pandas as pd

from softfree.core.memory import available_or_assumed
from softfree.models.registry import IMAGE_MODELS
from softfree.planning.memory import memory
from softfree.planning.work import Work
from softfree_lab.bench.cases import TOLERANCES, BenchCase, numerical_error
from softfree_lab.bench.worker import Worker

MAX_ROUNDS = 25


@dataclass(frozen=True)
class Budget:
    """Time limits of a measurement.

    Attributes:
        seconds: Time for each case, after its first run.
        limit: A case whose single run is predicted to take longer, in seconds, is skipped.
        threads: Threads of PyTorch; None for PyTorch's default.
    """

    seconds: float = 3.0
    limit: float = 60.0
    threads: int | None = None


C = TypeVar("C", bound=BenchCase)


@dataclass
class Group:
    """The cases of one size, precision and pass."""

    workers: dict[BenchCase, Worker] = field(default_factory=dict)
    errors: dict[BenchCase, float] = field(default_factory=dict)
    times: dict[BenchCase, list[float]] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)


def measure(cases: Sequence[BenchCase], budget: Budget, log: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """Measure the time and peak memory of all cases.

    Args:
        cases: In order of increasing size within a method, so that times can be extrapolated.
        budget: Time limits.
        log: Called with one line at the start of each group.

    Returns:
        One row per case: its fields, ``status`` ("ok", "skipped", "failed" or "wrong"), ``reason``, ``error``, and for
        "ok" ``ms`` (median), ``ms_low``, ``ms_high`` (quartiles), ``runs`` and ``peak_mib``.
    """
    rows: list[dict[str, object]] = []
    key = lambda case: (case.passes, case.precision, case.batch, case.width, case.size)  # noqa: E731
    for _, group in groupby(sorted(cases, key=key), key=key):
        members = list(group)
        first = members[0]
        log(f"{first.kind}, {first.size}, {first.precision}, {first.passes}")
        rows += _measure_group(members, budget, rows)
    return pd.DataFrame(rows)


def _measure_group(cases: list[BenchCase], budget: Budget, before: list[dict[str, object]]) -> list[dict[str, object]]:
    return run_group(
        cases,
        budget,
        together=sum(map(estimated_bytes, cases)) < available_or_assumed() / 2,
        skip_reason=lambda case: _reason_to_skip(case, budget, before),
        check=lambda case: (case, numerical_error(case)),
        start=lambda case: Worker(case, budget.threads),
        reference="float64",
        tolerances=TOLERANCES,
    )


def run_group(
    cases: Sequence[C],
    budget: Budget,
    *,
    together: bool,
    skip_reason: Callable[[C], str],
    check: Callable[[C], tuple[C, float]],
    start: Callable[[C], Worker],
    reference: str,
    tolerances: Mapping[str, float],
) -> list[dict[str, object]]:
    """Check, start and time the cases of a group; return one row for each, skipped cases included.

    Args:
        cases: The group.
        budget: Time limits.
        together: Whether all cases fit in memory at once, so that they can take turns.
        skip_reason: Returns the reason to skip a case, or "".
        check: Prepares a case and returns it with its numerical error.
        start: Starts the process of a case.
        reference: Name of the reference that the error refers to.
        tolerances: Largest error by precision; a case beyond it is not timed.
    """
    group = Group()
    for case in cases:
        reason = skip_reason(case)
        if reason:
            group.rows.append(row_of(case, "skipped", reason))
            continue
        try:
            case, error = check(case)
        except Exception as failure:  # one impossible case must not stop the others
            group.rows.append(row_of(case, "failed", " ".join(str(failure).split())[:200] or type(failure).__name__))
            continue
        if not error <= tolerances[case.precision]:
            group.rows.append(row_of(case, "wrong", f"differs from {reference}", error=error))
            continue
        worker = start(case)
        failed = worker.ready().get("failed")
        if failed:
            group.rows.append(row_of(case, "failed", failed, error=error))
            continue
        group.workers[case], group.errors[case], group.times[case] = worker, error, []
        if not together:
            run_in_turn(group, budget)
            finish(group)
    run_in_turn(group, budget)
    finish(group)
    return group.rows


def run_in_turn(group: Group, budget: Budget) -> None:
    """Run all cases in turn until each has reached the number of rounds or its time."""
    waiting = dict(group.workers)
    while waiting:
        for case, worker in list(waiting.items()):
            times = group.times[case]
            times.append(worker.run())
            if len(times) >= MAX_ROUNDS or (len(times) >= 3 and sum(times) > budget.seconds):
                del waiting[case]
            elif len(times) < 3 and sum(times) > 10 * budget.seconds:
                del waiting[case]  # long enough that its spread does not matter


def finish(group: Group) -> None:
    """Stop the processes and add one row for each: median time, quartiles and peak memory."""
    for case, worker in group.workers.items():
        peak = worker.stop()["peak"]
        times = sorted(group.times[case])
        low, high = times[len(times) // 4], times[-1 - len(times) // 4]
        group.rows.append(
            row_of(case, "ok", "", error=group.errors[case])
            | {
                "ms": 1e3 * statistics.median(times),
                "ms_low": 1e3 * low,
                "ms_high": 1e3 * high,
                "runs": len(times),
                "peak_mib": peak / 2**20,
            }
            | worker.more()
        )
    group.workers = {}


def row_of(case: BenchCase, status: str, reason: str, error: float = math.nan) -> dict[str, object]:
    """Return the first columns of a row: the case and its status."""
    columns = {name: value for name, value in case.__dict__.items() if name != "options"}
    return {**columns, "status": status, "reason": reason, "error": error}


def _reason_to_skip(case: BenchCase, budget: Budget, before: list[dict[str, object]]) -> str:
    need, have = estimated_bytes(case), available_or_assumed()
    if need > 0.9 * have:
        return f"needs about {need / 2**30:.1f} GiB, but {have / 2**30:.1f} are free"
    fields = ("method", "precision", "passes", "batch", "width", "compiled")
    smaller = [row for row in before if all(row[name] == getattr(case, name) for name in fields)]
    if smaller and smaller[-1]["status"] != "ok":
        return "already skipped at a smaller size"
    done = [(float(str(row["size"])), float(str(row["ms"])) / 1e3) for row in smaller if row["status"] == "ok"]
    seconds = predicted_seconds(done, case.size)
    return f"would take about {seconds:.0f} s per run" if seconds > budget.limit else ""


def predicted_seconds(done: Sequence[tuple[float, float]], size: float) -> float:
    """Extrapolate the time at ``size`` from (size, seconds) of smaller ones, by the growth between the last two."""
    if not done:
        return 0.0
    (size_1, time_1), exponent = done[-1], 1.0
    if len(done) > 1:
        size_0, time_0 = done[-2]
        exponent = max(1.0, math.log(time_1 / time_0) / math.log(size_1 / size_0))
    return time_1 * (size / size_1) ** exponent


def estimated_bytes(case: BenchCase) -> float:
    """Estimate the peak memory of a case: planned for softfree's models, else a generous multiple of the tokens."""
    item = case.type.itemsize
    if case.kind == "attention":
        copies = 12 if case.passes == "forward" else 30 + 18 * case.depth
        return case.batch * case.size * case.width * item * copies
    name, model_options = case.method.partition(" ")[0], dict(case.options)
    if name in IMAGE_MODELS:
        return memory(
            Work(
                model=name,
                size=case.size,
                batch_size=case.batch,
                precision=case.precision,  # type: ignore[arg-type]
                pure=True,
                inference=case.passes == "forward",
                stem="patch",
                **model_options,
            )
        ).total
    tokens, width = (case.size / 16) ** 2, 384
    copies = 12 if case.passes == "forward" else 18 * 12
    return case.batch * item * (6 * case.size**2 + tokens * width * copies)
