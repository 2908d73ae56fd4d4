"""Energy of the processor, by the counters that Linux shows (RAPL: running average power limit)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def packages(folder: Path = POWERCAP) -> list[Path]:
    """Find the counters of whole processors that may be read; their parts have a second number in the name."""
    found = [one for one in sorted(folder.glob("intel-rapl:*")) if one.name.count(":") == 1]
    return [one for one in found if _read(one / "energy_uj") is not None]


@contextmanager
def joules(folder: Path = POWERCAP) -> Iterator[Callable[[], float]]:
    """Measure a block: the function that it gives says afterwards how many joules all processors took.

    NaN without counters. Whatever else runs on the machine is in the number.
    """
    before = {one: _read(one / "energy_uj") for one in packages(folder)}
    spent = math.nan

    def told() -> float:
        return spent

    yield told
    if before:
        spent = sum(_difference(one, value) for one, value in before.items()) / 1e6


def _difference(package: Path, before: int | None) -> float:
    after = _read(package / "energy_uj")
    if before is None or after is None:
        return math.nan
    if after < before:  # the counter began again
        after += _read(package / "max_energy_range_uj") or 0
    return after - before


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
