"""Small files with the properties that real ones have; importing this fills ``CASES``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.corpus.case import CASES, Case

__all__ = ["CASES", "Case"]

for module in sorted(Path(__file__).parent.glob("*_cases.py")):
    import_module(f"tests.corpus.{module.stem}")
