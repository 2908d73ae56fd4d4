"""The table of ``docs/reference/formats.md``, made from the cases."""

from __future__ import annotations

from tests.corpus import CASES

PAGE = "docs/reference/formats.md"
BEGIN, END = "<!-- made by python -m tests.corpus -->", "<!-- end -->"


def as_markdown() -> str:
    """Return a table for each group of formats."""
    lines = []
    for group in dict.fromkeys(sorted(case.format for case in CASES)):
        lines += [f"### {group}", "", "| property | outcome |", "|---|---|"]
        own = sorted((case for case in CASES if case.format == group), key=lambda case: (case.outcome, case.property))
        lines += [f"| {case.property} | {case.outcome} |" for case in own]
        lines.append("")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return ``page`` with the table between its marks renewed."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{as_markdown()}{END}{rest.split(END, 1)[1]}"
