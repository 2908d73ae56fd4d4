"""One process per case, so that peak memory is measured separately; the parent lets the processes take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from softfree.core.environment import current_memory, peak_memory
from softfree_lab.bench.cases import BenchCase, prepare

Step = Callable[[], Any]
Clock = Callable[[Step, BenchCase, int], dict[str, float]]
MIN_SECONDS = 0.05  # of a measurement: shorter steps are repeated


class Worker:
    """A case that runs in its own process.

    Args:
        case: The case.
        threads: Threads of PyTorch; None for PyTorch's default.
        make_step: Turns the case into the function that is timed; called in the process, like ``clock``.
        clock: Runs a step several times and returns the ``seconds`` of one, and whatever else is measured.
    """

    def __init__(
        self,
        case: BenchCase,
        threads: int | None = None,
        make_step: Callable[[Any], Step] = prepare,
        clock: Clock | None = None,
    ) -> None:
        self.case = case
        context = process_context(make_step.__module__)
        self.connection, child_end = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(case, child_end, threads, make_step, clock or wall_clock), daemon=True
        )
        self.process.start()
        child_end.close()

    def ready(self) -> dict[str, Any]:
        """Wait until the case has run once; return nothing, or the reason under ``failed``."""
        return self._receive()

    def run(self) -> float:
        """Run once more and return the seconds."""
        return self.measured()["seconds"]

    def measured(self) -> dict[str, float]:
        """Run once more and return ``seconds`` and whatever else the clock measures."""
        self.connection.send("run")
        return self._receive()

    def more(self) -> dict[str, object]:
        """Return the columns of a row other than time and memory."""
        return {}

    def stop(self) -> dict[str, Any]:
        """Stop the process and return ``peak``, the most bytes that module, input and run took."""
        try:
            self.connection.send("stop")
            return self._receive()
        finally:
            self.connection.close()
            self.process.join()

    def _receive(self) -> dict[str, Any]:
        try:
            message: dict[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return {"failed": f"the process ended with status {self.process.exitcode}, often because memory ran out"}
        return message


def process_context(module: str) -> Any:
    """Fork processes from a server that has imported ``module`` and computed nothing, so that they start fast."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, module])
    return context


def _serve(
    case: BenchCase, connection: Connection, threads: int | None, make_step: Callable[[Any], Step], clock: Clock
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    before = current_memory()
    try:
        step = make_step(case)
        gc.collect()
        times = _repeats(clock(step, case, 1))
        if times > 1:  # the first run is slower than the others
            times = _repeats(clock(step, case, 1))
        connection.send({})
    except Exception as error:  # the parent reports it, whatever it is
        connection.send({"failed": " ".join(str(error).split())[:200] or type(error).__name__})
        return
    with suppress(EOFError, BrokenPipeError):  # the parent was killed
        while connection.recv() == "run":
            if times > 1:  # warm the caches, which other processes have used
                step()
            connection.send(clock(step, case, times))
        connection.send({"peak": peak_memory() - (0 if case.device == "cuda" else before)})


def _repeats(measured: dict[str, float]) -> int:
    """Return how often a step is run for one measurement."""
    return max(1, min(50, int(MIN_SECONDS / measured["seconds"])))


def wall_clock(step: Step, case: BenchCase, times: int) -> dict[str, float]:
    """Measure the seconds per step over ``times`` steps, including the work on the device."""
    if case.device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        step()
    if case.device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": (time.perf_counter() - started) / times}
