from __future__ import annotations

from pathlib import Path

from tests.corpus.table import PAGE, with_table


def test_the_table_in_the_docs_is_the_one_that_the_cases_give() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text()
    assert with_table(page) == page, "run python -m tests.corpus"
