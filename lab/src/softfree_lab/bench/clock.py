"""The time of a step by CUDA's events or the wall clock, its peak of memory, and what the device says of itself."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

Step = Callable[[], Any]
MOST = 200  # runs of a step
QUERIES = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")


def timed(step: Step, device: str, *, seconds: float = 0.3, least: int = 5, warm: int = 2) -> dict[str, Any]:
    """Run a step ``warm`` times, then at least ``least`` times and for ``seconds``.

    Returns:
        ``ms`` (median), ``ms_low`` and ``ms_high`` (quartiles) and ``runs``.
    """
    for _ in range(warm):
        step()
    synchronize(device)
    measure = _by_events if device == "cuda" else _by_wall_clock
    times: list[float] = []
    stop = time.monotonic() + seconds
    while len(times) < least or (time.monotonic() < stop and len(times) < MOST):
        times.append(measure(step))
    times.sort()
    low, high = times[len(times) // 4], times[-1 - len(times) // 4]
    return {
        "ms": round(statistics.median(times), 4),
        "ms_low": round(low, 4),
        "ms_high": round(high, 4),
        "runs": len(times),
    }


def _by_events(step: Step) -> float:
    """Milliseconds between two events on the device, so that Python's own time counts only where the device waits."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def _by_wall_clock(step: Step) -> float:
    started = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - started)


def peak_mib(step: Step, device: str) -> float | None:
    """Run a step and return the MiB that it took beyond what was there, weights and input; None on a processor.

    A process's own peak cannot be reset, so that on a processor a case needs a process of its own (see ``worker``).
    """
    if device != "cuda":
        return None
    synchronize(device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    synchronize(device)
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def device_says() -> dict[str, str]:
    """Return driver, clocks (MHz), power (W) and temperature (°C) as nvidia-smi gives them; empty without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERIES, (value.strip() for value in answer.strip().split(",")), strict=False))


def clock_mhz(device: str) -> int | None:
    """Return the clock of the device's processors just now; None where nobody says."""
    if device != "cuda":
        return None
    try:
        return torch.cuda.clock_rate()
    except Exception:  # without nvidia-ml-py, or where a container hides it
        return None
