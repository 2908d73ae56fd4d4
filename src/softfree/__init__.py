"""Compute-efficient medical image classification with softmax-free transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from softfree_runtime.core.telemetry import decline

if TYPE_CHECKING:
    from softfree.inference.run import Run

decline()  # before any library is imported that asks

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(folder: str | Path) -> Run:
    """Open a run directory: ``softfree.load("RUN").predict(paths_or_arrays)``."""
    from softfree.inference.run import Run

    return Run.load(folder)
