"""What a step makes the device do: the names and times of its kernels, as PyTorch's profiler sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from softfree_lab.bench.clock import synchronize

RUNS = 3
FUSED = ("flash", "cudnn", "fmha", "efficient", "sdpa", "sdp")


def profiled(step: Callable[[], Any], device: str) -> Any:
    """Profile some runs after a first one; the averages by operator and shape know their FLOPs."""
    step()
    synchronize(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities, record_shapes=True, with_flops=True) as found:
        for _ in range(RUNS):
            step()
        synchronize(device)
    return found


def device_time(event: Any, device: str) -> float:
    """Microseconds of an averaged event by itself, on the device."""
    return float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total)


def kernels_of(step: Callable[[], Any], device: str, most: int = 6) -> list[str]:
    """Name the kernels (operators on a processor) that take most of a step's time, first the longest."""
    events = [event for event in profiled(step, device).key_averages() if is_kernel(event, device)]
    events.sort(key=lambda event: -device_time(event, device))
    return [event.key[:100] for event in events[:most]]


def is_kernel(event: Any, device: str) -> bool:
    """Whether an averaged event ran on the device, and is not the operator that started it."""
    return device == "cpu" or str(event.device_type).endswith("CUDA")


def is_fused(name: str) -> bool:
    """Whether a kernel's name is that of a fused attention."""
    return any(part in name.lower() for part in FUSED)
