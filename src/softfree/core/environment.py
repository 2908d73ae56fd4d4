"""The machine that work is done on, and the software that a number was measured with."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

REPORTED = ("softfree", "torch", "timm", "lightning", "monai", "numpy", "pydicom", "pillow")


def best_device() -> torch.device:
    """Where models are best run: the GPU, or without one the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_machine(threads: int | None = None) -> str:
    """One line: processor, threads that were used (default: what PyTorch uses here), system, GPU if any."""
    threads = threads or torch.get_num_threads()
    plural = "s" * (threads != 1)
    parts = [_processor(), f"{threads} thread{plural}", f"{platform.system()} {platform.machine()}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Python and the libraries that decide a result."""
    return {"python": platform.python_version(), **{name: _version(name) for name in REPORTED}}


@cache  # to read the metadata of a package takes milliseconds
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def peak_memory() -> int:
    """Bytes: the most that the GPU held, or without one that this process held."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    # What getrusage says on Linux starts at the peak of the parent process.
    return _kernel_says("VmHWM") or _peak_by_getrusage()


def current_memory() -> int:
    """Bytes of main memory that this process holds now."""
    return _kernel_says("VmRSS") or _peak_by_getrusage()


def _kernel_says(name: str) -> int | None:
    """Read a size in bytes from what Linux says of this process; None elsewhere."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _peak_by_getrusage() -> int:
    """Bytes as the system counts them for this process; 0 on Windows, which has no such count."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
