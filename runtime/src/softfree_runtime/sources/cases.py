"""Cases of several images, from the columns ``case_id``, ``view`` and ``time`` of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from softfree_runtime.core.errors import UserError, shortened
from softfree_runtime.sources.sample_source import Case, CaseFile, SampleSource, files_of
from softfree_runtime.sources.table_text import has_decimal_commas

CASE, VIEW, TIME = "case_id", "view", "time"
"""Columns: rows with the same case are one sample; what an image shows; when it was taken."""


def group_rows(path: object, cases: Sequence[str], names_of: Callable[[Collection[int]], str]) -> list[list[int]]:
    """List the rows of each case, in order of appearance.

    Args:
        path: The table, for messages.
        cases: Case of each row.
        names_of: Names the lines of rows, for messages.

    Raises:
        UserError: A row has no case.
    """
    if missing := [row for row, name in enumerate(cases) if not name.strip()]:
        raise UserError(
            f"{path}: {names_of(missing[:5])} have no {CASE}; give each row one: a case of one image needs a name, too"
        )
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(cases):
        groups.setdefault(name.strip(), []).append(row)
    return list(groups.values())


def make_case(
    path: object,
    name: str,
    files: Sequence[CaseFile],
    rows: Sequence[int],
    names_of: Callable[[Collection[int]], str],
    variables: Mapping[str, Sequence[str]] | None = None,
) -> Case:
    """Make a case of its images, ordered by view, time and path.

    Args:
        path: The table, for messages.
        name: The case.
        files: Its images.
        rows: Their rows.
        names_of: Names the lines of rows, for messages.
        variables: Cells of all its rows, by column; an empty cell has the value of the others.

    Raises:
        UserError: Two images have the same view and time, or rows differ in a variable.
    """
    seen: dict[tuple[str, float | None], int] = {}
    for file, row in zip(files, rows, strict=True):
        if file.view and (file.view, file.time) in seen:
            both = names_of([seen[file.view, file.time], row])
            raise UserError(
                f"{path}: {both} are of one case and have the same view {shortened(file.view)}; give them different"
                f" views, or times in a column {TIME}, or leave the view empty"
            )
        seen[file.view, file.time] = row
    own = tuple((column, _shared(path, column, cells, rows, names_of)) for column, cells in (variables or {}).items())
    return Case(tuple(sorted(files, key=_order)), name.strip(), own)


def _shared(
    path: object, column: str, cells: Sequence[str], rows: Sequence[int], names_of: Callable[[Collection[int]], str]
) -> str:
    """Return the value that all rows of a case have in a column, apart from empty cells."""
    values = sorted({cell.strip() for cell in cells} - {""})
    if len(values) > 1:
        raise UserError(
            f"{path}: {names_of(rows[:5])} are of one case and differ in column {column!r}; a variable belongs to the"
            " case: give it one value, or separate the cases"
        )
    return values[0] if values else ""


def _order(file: CaseFile) -> tuple[object, ...]:
    return file.view, -math.inf if file.time is None else file.time, file.path, file.frame or 0


def parse_times(cells: Iterable[object]) -> list[float | None]:
    """Parse the column ``time``, which may have decimal commas; None for empty cells.

    Raises:
        UserError: Not a finite number.
    """
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    known = [text not in ("", "nan", "<NA>") for text in texts]
    commas = has_decimal_commas([text for text, is_known in zip(texts, known, strict=True) if is_known])
    return [
        _number(text, text.replace(",", ".") if commas else text) if is_known else None
        for text, is_known in zip(texts, known, strict=True)
    ]


def _number(text: str, plain: str) -> float:
    try:
        number = float(plain)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"column {TIME} holds {shortened(text)}; expected a number, such as days since the first image, or an"
            " empty cell"
        )
    return number


def known_views(sources: Sequence[SampleSource]) -> list[str]:
    """Return the views of all cases, sorted."""
    return sorted({file.view for file in _case_files(sources) if file.view})


def longest_time(sources: Sequence[SampleSource]) -> float | None:
    """Return the longest time between two files of a case; None if no case has two times."""
    longest = 0.0
    for source in sources:
        times = [file.time for file in _case_files([source]) if file.time is not None]
        longest = max(longest, max(times) - min(times)) if times else longest
    return longest or None


def _case_files(sources: Sequence[SampleSource]) -> list[CaseFile]:
    return [file for source in sources for file in files_of(source) if isinstance(file, CaseFile)]
