"""A process for each case, so that its peak memory is its own; the parent lets the processes run in turn."""

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
AT_LEAST = 0.05  # seconds of a measurement: shorter steps are repeated


class Worker:
    """A case in a process of its own.

    Args:
        case: What to run.
        threads: Of PyTorch; None for its own choice.
        make_step: From the case to what is timed; called in the process, as ``clock`` is.
        clock: Runs a step so many times: ``seconds`` of one, and whatever else is measured.
    """

    def __init__(
        self,
        case: BenchCase,
        threads: int | None = None,
        make_step: Callable[[Any], Step] = prepare,
        clock: Clock | None = None,
    ) -> None:
        self.case = case
        context = _context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(case, theirs, threads, make_step, clock or wall_clock), daemon=True
        )
        self.process.start()
        theirs.close()

    def ready(self) -> dict[str, Any]:
        """Wait until it has run once: nothing, or ``failed`` and why."""
        return self._ask()

    def run(self) -> float:
        """Run once more, in seconds."""
        return self.measured()["seconds"]

    def measured(self) -> dict[str, float]:
        """Run once more: ``seconds``, and what else the clock measures."""
        self.connection.send("run")
        return self._ask()

    def more(self) -> dict[str, object]:
        """What a row holds of its runs besides time and memory."""
        return {}

    def stop(self) -> dict[str, Any]:
        """End the process: ``peak``, the bytes that module, input and run took at most."""
        try:
            self.connection.send("stop")
            return self._ask()
        finally:
            self.connection.close()
            self.process.join()

    def _ask(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return {"failed": f"the process ended with status {self.process.exitcode}, often for lack of memory"}
        return answer


def _context() -> Any:
    """Start processes from one that has imported everything and computed nothing: each is there at once."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
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
        if times > 1:  # the first run was slower than the others will be
            times = _repeats(clock(step, case, 1))
        connection.send({})
    except Exception as error:  # whatever it is, the parent has to hear of it
        connection.send({"failed": " ".join(str(error).split())[:200] or type(error).__name__})
        return
    with suppress(EOFError, BrokenPipeError):  # the parent was killed
        while connection.recv() == "run":
            if times > 1:  # other processes have had the caches
                step()
            connection.send(clock(step, case, times))
        connection.send({"peak": peak_memory() - (0 if case.device == "cuda" else before)})


def _repeats(measured: dict[str, float]) -> int:
    """How often a step is run for one measurement."""
    return max(1, min(50, int(AT_LEAST / measured["seconds"])))


def wall_clock(step: Step, case: BenchCase, times: int) -> dict[str, float]:
    """Measure the seconds of one of ``times`` steps, the device's work included."""
    if case.device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        step()
    if case.device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": (time.perf_counter() - started) / times}
