"""Sentences about what was assumed, for people, beside what is printed for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from softfree_runtime.core.files import printable


def say(source: str | Path, notes: Iterable[str]) -> None:
    """Print sentences about a table or a folder on standard error."""
    for note in notes:
        print(f"softfree: note: {printable(str(source))}: {note}", file=sys.stderr)
