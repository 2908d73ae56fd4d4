"""Cases side by side: in turn, so that a busy moment of the machine hits all of them; what does not fit is left out."""

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

MOST_ROUNDS = 25


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        seconds: Time for each case, after its first run.
        limit: A case whose single run is predicted to take longer, in seconds, is left out.
        threads: Of PyTorch; None for its own choice.
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


def measure(cases: Sequence[BenchCase], budget: Budget, tell: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """Time all cases and find their peak memory.

    Args:
        cases: In the order of growing size within a method, so that long ones can be predicted.
        budget: How long.
        tell: Called with a line for each group that begins.

    Returns:
        A row a case: its fields, ``status`` ("ok", "skipped", "failed" or "wrong"), ``reason``, ``error``, and for "ok"
        ``ms`` (median), ``ms_low``, ``ms_high`` (quartiles), ``runs`` and ``peak_mib``.
    """
    rows: list[dict[str, object]] = []
    key = lambda case: (case.passes, case.precision, case.batch, case.width, case.size)  # noqa: E731
    for _, group in groupby(sorted(cases, key=key), key=key):
        members = list(group)
        first = members[0]
        tell(f"{first.kind}, {first.size}, {first.precision}, {first.passes}")
        rows += _measure_group(members, budget, rows)
    return pd.DataFrame(rows)


def _measure_group(cases: list[BenchCase], budget: Budget, before: list[dict[str, object]]) -> list[dict[str, object]]:
    return run_group(
        cases,
        budget,
        together=sum(map(estimated_bytes, cases)) < available_or_assumed() / 2,
        why_not=lambda case: _reason_to_skip(case, budget, before),
        checked=lambda case: (case, numerical_error(case)),
        start=lambda case: Worker(case, budget.threads),
        reference="float64",
        tolerances=TOLERANCES,
    )


def run_group(
    cases: Sequence[C],
    budget: Budget,
    *,
    together: bool,
    why_not: Callable[[C], str],
    checked: Callable[[C], tuple[C, float]],
    start: Callable[[C], Worker],
    reference: str,
    tolerances: Mapping[str, float],
) -> list[dict[str, object]]:
    """Check, start and time the cases of a group: a row for each, also for those that are left out.

    Args:
        cases: The group.
        budget: How long.
        together: Whether all fit in memory at once, so that they can run in turn.
        why_not: The reason to leave a case out, or nothing.
        checked: Makes a case ready to start, and gives its error.
        start: A process for a case.
        reference: What the error is against, in words.
        tolerances: The largest error by precision; a case beyond it gets no time.
    """
    group = Group()
    for case in cases:
        reason = why_not(case)
        if reason:
            group.rows.append(row_of(case, "skipped", reason))
            continue
        try:
            case, error = checked(case)
        except Exception as failure:  # one impossible case is no reason to lose the others
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
    """Run all cases once, then again, until each has its rounds or its seconds."""
    waiting = dict(group.workers)
    while waiting:
        for case, worker in list(waiting.items()):
            times = group.times[case]
            times.append(worker.run())
            if len(times) >= MOST_ROUNDS or (len(times) >= 3 and sum(times) > budget.seconds):
                del waiting[case]
            elif len(times) < 3 and sum(times) > 10 * budget.seconds:
                del waiting[case]  # so long that its spread does not matter


def finish(group: Group) -> None:
    """End the processes and add a row for each: median time, quartiles, peak memory."""
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
    """Begin a row: the case, and what became of it."""
    shown = {name: value for name, value in case.__dict__.items() if name != "options"}
    return {**shown, "status": status, "reason": reason, "error": error}


def _reason_to_skip(case: BenchCase, budget: Budget, before: list[dict[str, object]]) -> str:
    need, have = estimated_bytes(case), available_or_assumed()
    if need > 0.9 * have:
        return f"needs about {need / 2**30:.1f} GiB, {have / 2**30:.1f} are free"
    same = ("method", "precision", "passes", "batch", "width", "compiled")
    smaller = [row for row in before if all(row[name] == getattr(case, name) for name in same)]
    if smaller and smaller[-1]["status"] != "ok":
        return "left out at a smaller size already"
    done = [(float(str(row["size"])), float(str(row["ms"])) / 1e3) for row in smaller if row["status"] == "ok"]
    seconds = predicted_seconds(done, case.size)
    return f"would take about {seconds:.0f} s a run" if seconds > budget.limit else ""


def predicted_seconds(done: Sequence[tuple[float, float]], size: float) -> float:
    """Predict the time at ``size`` from (size, seconds) of smaller ones, by the growth between the last two."""
    if not done:
        return 0.0
    (size_1, time_1), exponent = done[-1], 1.0
    if len(done) > 1:
        size_0, time_0 = done[-2]
        exponent = max(1.0, math.log(time_1 / time_0) / math.log(size_1 / size_0))
    return time_1 * (size / size_1) ** exponent


def estimated_bytes(case: BenchCase) -> float:
    """Say what a case holds at its peak: by plan for softfree's models, else a generous guess by the tokens' size."""
    item = case.type.itemsize
    if case.kind == "attention":
        kept = 12 if case.passes == "forward" else 30 + 18 * case.depth
        return case.batch * case.size * case.width * item * kept
    name, given = case.method.partition(" ")[0], dict(case.options)
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
                **given,
            )
        ).total
    tokens, width = (case.size / 16) ** 2, 384
    kept = 12 if case.passes == "forward" else 18 * 12
    return case.batch * item * (6 * case.size**2 + tokens * width * kept)
