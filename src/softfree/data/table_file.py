"""A CSV or Parquet file, or a folder of classes, as a frame of text, with the numbers of its rows kept for messages."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas.errors import ParserError, ParserWarning

from softfree.data.folder_file import read_folder
from softfree.errors import UserError

_SHOWN = 5


@dataclass(frozen=True)
class Rows:
    """How rows of a file are named to people: lines of a text file, counted from 1 with the header, or plain rows."""

    word: str
    first: int

    def name(self, numbers: Iterable[int]) -> str:
        """Return such as ``line 7`` or ``lines 2, 3, 5, 8, 9 and 12 more`` for 0-based row numbers."""
        listed = [int(number) + self.first for number in numbers]
        shown = ", ".join(map(str, listed[:_SHOWN]))
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        return f"{self.word}{'s' if len(listed) > 1 else ''} {shown}{more}"


@dataclass(frozen=True)
class TableFile:
    """The rows of a file as they stand there.

    Attributes:
        frame: its columns, those that were asked for as stripped text with NA for empty cells; ``row`` is the
            index, counted from 0.
        rows: how to name rows in messages.
        digest: SHA-256 of the file.
    """

    frame: pd.DataFrame
    rows: Rows
    digest: str


def read_table_file(path: Path, text: Collection[str]) -> TableFile:
    """Read CSV (comma, semicolon or tab; UTF-8, UTF-16 or Latin-1) or Parquet, told apart by content, or a folder.

    Args:
        path: the file, or a folder of classes.
        text: columns to be read as text; others keep the type that pandas finds.

    Raises:
        UserError: when it is missing, empty, or no table.
    """
    if path.is_dir():
        frame, digest = read_folder(path)
        return TableFile(frame, Rows("picture", 1), digest)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; name a CSV or Parquet file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be opened ({reason}); name a CSV or Parquet file") from None
    parquet = content.startswith(b"PAR1")
    frame = _parquet(path) if parquet else _csv(path, content, text)
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    if double := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise UserError(f"{path}: two columns are called {double[0]!r}; rename one")
    frame = frame.dropna(how="all")
    if frame.empty:
        raise UserError(f"{path}: a table without rows; expected one row a picture under the header")
    for name in frame.columns.intersection(list(text)):
        frame[name] = _as_text(frame[name])
    rows = Rows("row", 0) if parquet else Rows("line", 2)
    return TableFile(frame, rows, hashlib.sha256(content).hexdigest())


def no_column(path: Path, name: str, columns: Sequence[str], mend: str) -> UserError:
    """Make the error for a column that is not there, with what is there and what is likely meant."""
    meant = closest(name, columns)
    hint = f" (did you mean {meant!r}?)" if meant else ""
    return UserError(f"{path}: no column {name!r}{hint}; it has {', '.join(columns)}; {mend}")


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that looks most like ``name``, capitals aside, or None."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except Exception as error:  # pyarrow raises many kinds
        message = str(error).splitlines()[0]
        raise UserError(f"{path}: a damaged Parquet file ({message}); write it again") from None


def _csv(path: Path, content: bytes, text: Collection[str]) -> pd.DataFrame:
    if content.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: not a table but a zip archive or Excel workbook; save it as CSV")
    encoding = _encoding(content)
    head = content[:65536].decode(encoding, errors="replace")
    if "\0" in head:
        raise UserError(f"{path}: not a table but a binary file; expected CSV or Parquet")
    header = next(iter(head.splitlines()), "")
    if not header.strip():
        raise UserError(f"{path}: not a table: its first line is empty; expected the names of the columns")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)
            return pd.read_csv(
                io.BytesIO(content),
                sep=max(",;\t", key=_outside_quotes(header).count),
                encoding=encoding,
                dtype=dict.fromkeys(text, str),
                # A class may be called "None" or "NA": only an empty cell is empty.
                keep_default_na=False,
                na_values=[""],
                index_col=False,
                # Blank lines are dropped later, so that rows keep their line numbers.
                skip_blank_lines=False,
                low_memory=False,
            )
    except (ParserError, ParserWarning, ValueError, csv.Error) as error:
        message = str(error).strip().splitlines()[-1].removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path}: not a table ({message}); expected CSV with as many cells as the header") from None


def _encoding(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        content.decode("utf-8-sig")
        return "utf-8-sig"
    except UnicodeDecodeError:
        return "latin-1"


def _outside_quotes(header: str) -> str:
    return "".join(header.split('"')[::2])


def _as_text(column: pd.Series) -> pd.Series:
    """Text without surrounding spaces, NA where nothing is left; whole numbers without a decimal point."""
    if pd.api.types.is_bool_dtype(column):
        column = column.astype("Int8")
    elif pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    stripped = column.astype("string").str.strip()
    return stripped.mask(stripped == "")
