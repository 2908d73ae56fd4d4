"""Numbers as names of columns, metrics and groups."""

from __future__ import annotations

from collections.abc import Iterable


def number_names(numbers: Iterable[float]) -> list[str]:
    """Name numbers, such as ``365`` and ``0.333333``: whole ones are written in full, different ones never alike.

    Args:
        numbers: Named together: they get six significant digits, or as many as tell them apart.
    """
    values = [float(number) for number in numbers]
    names: list[str] = []
    for digits in range(6, 18):
        names = [f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"
                 for value in values]  # fmt: skip
        if len(set(names)) == len(set(values)):
            break
    return names
