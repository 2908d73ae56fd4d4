"""Text tables (CSV), decoded and checked before parsing: encoding, separator, quotes, number of cells per row.

What passes here is read equally by :mod:`csv` and by pandas, so that ``softfree`` and the pandas-free runtime agree.
"""

from __future__ import annotations

import csv
import io
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from softfree_runtime.core.errors import UserError, listed, shortened

SEPARATORS = ",;\t|"
WESTERN = "not UTF-8: read as Windows-1252 (Western European)"
FRAME = r"[0-9]{1,9}(?:\.0*)?"  # a number as it may be written in a column frame
_SHOWN = 5
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive or Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "gzip-compressed",
}
# Patterns that are unlikely in Western European text, but result from reading other encodings as Windows-1252.
_NOT_WESTERN = re.compile(
    r"[^\x00-\x7f°µ±²³¹ºª½¼¾×÷§–—‘’“”…€£·«»¿¡´\xa0A-Za-zÀ-ÖØ-öø-ÿŒœŠšŽžŸ]"  # characters unlikely in a table
    r"|[À-ÖØ-öø-ÿŒœŠšŽžŸ]{3}"  # words of accented letters only
    r"|[°µ±²³¹ºª½¼¾×÷§·´\xa0][À-ÖØ-öø-ÿ]|[À-ÖØ-öø-ÿ][°µ±²³¹ºª½¼¾×÷§·´]"
    r"|[a-zß-öø-ÿœšž][À-ÖØ-ÞŒŠŽŸ]"  # a capital within a word
    r"|(?<![A-Za-z])[À-ÖØ-öø-ÿ]{2}(?![A-Za-z])"
    r"|[A-Za-z][“”§·€£¿¡«»½¼¾×÷±]+[A-Za-z]"
)


@dataclass(frozen=True)
class RowNamer:
    """Names rows of a file in messages: lines of a text file, counted from 1, or plain rows.

    Attributes:
        word: ``line`` or ``row``.
        first: Number of the first row.
        lines: Line of each row, if cells with line breaks make them irregular.
    """

    word: str
    first: int
    lines: Sequence[int] | None = None

    def name(self, numbers: Collection[int]) -> str:
        """Return a name such as ``line 7`` or ``lines 2, 3, 5, 8, 9 and 12 more`` for 0-based row numbers."""
        first = [int(number) for number in islice(numbers, _SHOWN)]
        shown = [number + self.first if self.lines is None else self.lines[number] for number in first]
        more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
        return f"{self.word}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, shown))}{more}"


@dataclass(frozen=True)
class TextTable:
    """A valid text table.

    Attributes:
        body: Rows as text, without the header; each line ends in a newline.
        separator: Separator of cells.
        columns: Unique names; ``Unnamed: 2`` if the header has none.
        rows: Names rows in messages.
        notes: Assumptions, one sentence each.
    """

    body: str
    separator: str
    columns: tuple[str, ...]
    rows: RowNamer
    notes: tuple[str, ...] = ()

    def cells(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the number of each row that is not empty, counted from 0, and its stripped cells by column."""
        for number, row in enumerate(csv.reader(io.StringIO(self.body, newline="\n"), **self.dialect())):
            if any(cell.strip() for cell in row):
                cells = {name: as_cell(cell) for name, cell in zip(self.columns, row, strict=False)}
                yield number, dict.fromkeys(self.columns, "") | cells

    def dialect(self) -> dict[str, Any]:
        """Return the keywords of :func:`csv.reader`."""
        return {"delimiter": self.separator, "skipinitialspace": True}


def as_cell(text: str) -> str:
    """Return a cell without surrounding spaces and the ``="..."`` by which spreadsheets keep leading zeros."""
    text = text.strip()
    return text[2:-1].strip() if text.startswith('="') and text.endswith('"') else text


def has_decimal_commas(cells: Sequence[str]) -> bool:
    """Return whether a column holds numbers such as ``63,5``; ``1,234`` alone could be thousands.

    Args:
        cells: Its stripped cells without the empty ones.
    """
    with_comma = [cell for cell in cells if "," in cell]
    if not with_comma or not all(re.fullmatch(r"[+-]?\d+(,\d+)?", cell) for cell in cells):
        return False
    return not all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", cell) for cell in with_comma)


def read_bytes(path: Path, kinds: str = "a CSV or Parquet file") -> bytes:
    """Read a whole file.

    Raises:
        UserError: The file is missing, cannot be opened, or is not regular; reading a pipe could block forever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: not a regular file; name {kinds}")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; name {kinds}") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be opened ({reason}); name {kinds}") from None


def check_text(path: Path, content: bytes, needed: Collection[str]) -> TextTable:
    """Decode a text table and check its header, its quotes and the number of cells in each row.

    Args:
        path: Path of the table, for messages.
        content: Content of the file.
        needed: Columns required in every row; other cells at the end of a row may be missing, which is noted.

    Raises:
        UserError: Anything ambiguous, with the line.
    """
    text, notes = _decoded(path, content)
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n\x1a ")
    skipped, separator = 0, None
    if announced := re.match(r'"?sep=(.)"?[,;\t|]*\n', text, re.IGNORECASE):
        text, skipped, separator = text[announced.end() :], 1, announced[1]
    first = text.partition("\n")[0]
    if not first.strip():
        raise UserError(f"{path}: not a table: its first line is empty; expected the names of the columns")
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", first):
        raise UserError(f"{path}: not a table but a binary file; expected CSV or Parquet")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1 + skipped
        raise UserError(f"{path}: a NUL byte in line {line}, which no text has; the file is damaged, write it again")
    separator = separator or _separator(first)
    if '" ' in text:  # spaces after a quoted cell
        text = re.sub(rf'(?<!")" +(?={re.escape(separator)}|$)', '"', text, flags=re.MULTILINE)
    columns, body, height = _header(path, text, separator)
    table = TextTable(body, separator, columns, RowNamer("line", 1 + skipped + height), notes)
    check = _check_quoted if '"' in body else _check_plain
    return check(path, table, needed)


def _decoded(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    for magic, what in _ARCHIVES.items():
        if content.startswith(magic):
            raise UserError(f"{path}: not a table but {what}; save it as CSV")
    mark = next((name for start, name in _MARKS.items() if content.startswith(start)), None) or _wide(content)
    try:
        return content.decode(mark or "utf-8-sig"), ()
    except UnicodeDecodeError as error:
        if mark:
            raise UserError(f"{path}: damaged {mark.upper()} text; save it again, preferably as UTF-8") from None
        line = len(re.split(rb"\r\n|\n|\r", content[: error.start]))
    text = content.decode("cp1252", errors="replace")
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", re.split(r"[\r\n]", text, maxsplit=1)[0]):
        raise UserError(f"{path}: not a table but a binary file; expected CSV or Parquet")
    if _NOT_WESTERN.search(text):
        raise UserError(
            f"{path}: not UTF-8 (line {line}), and its code page is unknown; save it as UTF-8, which"
            " spreadsheets offer as 'CSV UTF-8'"
        )
    return text, (WESTERN,)


def _wide(content: bytes) -> str | None:
    """Detect UTF-16 without a byte order mark: the header's letters are ASCII with a zero byte before or after each."""
    head = content[:64]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) < 4 or min(even, odd) > 0 or max(even, odd) < len(head) // 4:
        return None
    return "utf-16-be" if even else "utf-16-le"


def _separator(header: str) -> str:
    """Choose the separator that yields a column ``path``, or else the most frequent one."""
    plain = "".join(header.split('"')[::2])

    def fitness(separator: str) -> tuple[bool, int]:
        names = [name.strip(' "') for name in header.split(separator)]
        return "path" in names and separator in plain, plain.count(separator)

    return max(SEPARATORS, key=fitness)


def _header(path: Path, text: str, separator: str) -> tuple[tuple[str, ...], str, int]:
    """Return the names of the columns, the text below, and the number of lines of the header."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        header = next(reader)
    except csv.Error as error:
        raise UserError(f"{path}: the header cannot be read ({error}); correct its quotes") from None
    names = [normalize("NFC", name.strip()) or f"Unnamed: {number}" for number, name in enumerate(header)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: two columns are called {shortened(twice[0])}; rename one")
    end = 0
    for _ in range(reader.line_num):
        end = text.find("\n", end) + 1 or len(text)
    return tuple(names), text[end:], reader.line_num


def _check_plain(path: Path, table: TextTable, needed: Collection[str]) -> TextTable:
    """Check rows without quotes: each is one line."""
    separator, width = table.separator, len(table.columns)
    odd = {
        number: count
        for number, line in enumerate(table.body.split("\n"))
        if (count := line.count(separator) + 1) != width and line.strip(" ")
    }
    return _checked(path, table, odd, needed)


def _check_quoted(path: Path, table: TextTable, needed: Collection[str]) -> TextTable:
    """Check rows with quotes, whose cells may hold separators and line ends."""
    width, first = len(table.columns), table.rows.first
    ends: list[int] = []
    odd: dict[int, int] = {}
    reader = csv.reader(io.StringIO(table.body, newline="\n"), strict=True, **table.dialect())
    try:
        for row in reader:
            if len(row) != width and any(row):
                odd[len(ends)] = len(row)
            ends.append(reader.line_num)
    except csv.Error:
        opened, closed = (ends[-1] if ends else 0) + first, reader.line_num + first - 1
        where = f"line {opened}" if opened == closed else f"lines {opened} to {closed}"
        raise UserError(
            f"{path}: a quote in {where} is not at the start or end of a cell; delete it, or write the cell in quotes"
            ' with each quote inside it doubled: "2"" margin"'
        ) from None
    starts = [0, *ends[:-1]]
    if ends[-1] > len(ends):
        lines = table.body.split("\n")
        for start, end in zip(starts, ends, strict=True):
            if end > start + 1:
                _refuse_swallowed(path, table, lines[start:end], start + first)
        table = replace(table, rows=RowNamer("line", first, [start + first for start in starts]))
    return _checked(path, table, odd, needed)


def _refuse_swallowed(path: Path, table: TextTable, lines: list[str], number: int) -> None:
    """Refuse a multi-line cell whose lines look like rows: two stray quotes are more likely."""
    column = table.columns.index("path") if "path" in table.columns else 0

    def ending(line: str) -> str:
        cells = line.split(table.separator)
        return PurePosixPath(cells[column].strip(' "')).suffix if len(cells) > column else ""

    for later, line in enumerate(lines[1:], 1):
        if line.count(table.separator) + 1 == len(table.columns) and ending(line) == ending(lines[0]):
            raise UserError(
                f"{path}: the quoted cell that starts in line {number} includes line {number + later}, which looks like"
                " a row; delete the stray quote, or the line break within the cell"
            )


def _checked(path: Path, table: TextTable, odd: dict[int, int], needed: Collection[str]) -> TextTable:
    """Refuse rows with too many cells, or without needed ones; note rows that lack others."""
    width = len(table.columns)
    last = max((number for number, name in enumerate(table.columns) if name in needed), default=0)
    for wrong in ([n for n, count in odd.items() if count > width], [n for n, count in odd.items() if count <= last]):
        if wrong:
            counts = listed(sorted({str(odd[number]) for number in wrong}))
            raise UserError(
                f"{path}: {table.rows.name(wrong)}: {counts} cells, but the header has {width}; quote cells that"
                f" contain {_named(table.separator)}, and write a separator for each empty cell"
            )
    if not odd:
        return table
    note = f"rows with fewer cells than the header ({table.rows.name(odd)}): the missing ones are read as empty"
    return replace(table, notes=(*table.notes, note))


def _named(separator: str) -> str:
    return {"\t": "a tab", ",": "a comma", ";": "a semicolon"}.get(separator, separator)
