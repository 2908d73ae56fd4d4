"""Options of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softfree.core.options import TableOptions


@dataclass(kw_only=True)
class CheckOptions(TableOptions):
    """Audit.

    Attributes:
        out: CSV file for pairs of nearly identical images: numbers of their rows, splits and folds.
        strict: Treat files that had to be corrected, or about which something was assumed, as errors.
        num_workers: Number of threads that read images.
        progress: Show a progress bar.
    """

    out: Path | None = None
    strict: bool = False
    num_workers: int = 2
    progress: bool = True
