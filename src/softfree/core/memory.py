"""Main memory: how much is still free, found without torch, and giving back what is no longer used."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

_ASSUMED = 4 * 2**30  # bytes
_MEMINFO, _OWN_GROUPS, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still get: of the machine's, and of what its container or job may take.

    Containers and batch systems limit their processes by control groups, of which ``/proc/meminfo`` knows nothing.

    Returns:
        The least of all; None where the system does not say.
    """
    found = [_field(_MEMINFO, "MemAvailable:", 1024), *map(_left_in, _groups())]
    return min((bytes_ for bytes_ in found if bytes_ is not None), default=None)


def available_or_assumed() -> int:
    """The same, and a small machine's where the system does not say."""
    found = available_memory()
    return _ASSUMED if found is None else found


def _groups() -> list[Path]:
    """Folders of the control groups of memory that this process is in, each with those around it."""
    found: list[Path] = []
    for line in _lines(_OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _GROUPS / controllers
        own = root / path.strip("/")
        # Within a container the path may be the one outside of it, while the root is its own group.
        found += [own, *(folder for folder in own.parents if folder == root or root in folder.parents)]
    return found


def _left_in(group: Path) -> int | None:
    """Bytes that are left in a group of either version; None without a limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, taken = _number(group / limit), _number(group / used)
        if most is not None and taken is not None:
            return max(0, most - taken + (_field(group / "memory.stat", cache, 1) or 0))  # the cache gives way
    return None


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _field(file: Path, name: str, unit: int) -> int | None:
    for line in _lines(file):
        words = line.split()
        if words[:1] == [name]:
            return int(words[1]) * unit
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory is short: a device's, or the main memory."""
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def release_memory() -> None:
    """Return freed memory to the system, so that a process that trains several models needs little more than one.

    Trainers leave reference cycles behind, and glibc keeps what is freed: after three trainings of a small model, 0.55
    of 1.7 GiB were of no use.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
