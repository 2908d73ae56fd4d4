"""Bars for long work. They go to standard error: what is printed on standard output is for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")

# One for all, so that a bar within a bar finds its place.
console = Console(stderr=True, markup=False)  # names of classes and folders may contain brackets


def tracked(items: Iterable[T], what: str, *, total: int | None = None, shown: bool = True) -> Iterable[T]:
    """Give the items one by one, with a bar that goes when they end; a file gets none, which would be an empty line.

    Args:
        items: what is worked on.
        what: is done to them, in a word or two.
        total: number of items; needed where they do not know it themselves.
        shown: False gives the items alone.
    """
    return track(items, what, total=total, console=console, disable=not (shown and console.is_terminal), transient=True)
