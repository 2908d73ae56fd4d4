"""Options of an audit."""

from __future__ import annotations

from dataclasses import dataclass

from softfree.training.options import TableOptions


@dataclass(kw_only=True)
class CheckOptions(TableOptions):
    """An audit of a table before training.

    Attributes:
        strict: Count files that had to be corrected, or about which something was assumed, as errors.
        num_workers: Threads that read images.
        progress: Show a progress bar.
    """

    strict: bool = False
    num_workers: int = 2
    progress: bool = True
