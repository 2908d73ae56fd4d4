"""Write the table of what is read, corrected and refused: ``python -m tests.corpus``."""

from __future__ import annotations

from pathlib import Path

from tests.corpus.table import PAGE, with_table

page = Path(__file__).parents[2] / PAGE
page.write_text(with_table(page.read_text()))
