"""CSV and Parquet files and folders of classes as data frames of text, with row numbers for messages."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.data.folder_file import read_folder
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.sources.table_text import RowNamer, TextTable, as_cell, check_text, has_decimal_commas, read_bytes

NEEDED = ("path", "patient_id", "split", "frame", "mpp")


@dataclass(frozen=True)
class TableFile:
    """The rows of a file as they are.

    Attributes:
        frame: All columns of single values, the requested ones as stripped text with NA for empty cells; the index is
            the number of the row, counted from 0.
        rows: Names rows in messages.
        digest: SHA-256 of the file.
        notes: What was assumed or left out, one sentence each.
    """

    frame: pd.DataFrame
    rows: RowNamer
    digest: str
    notes: tuple[str, ...] = ()


def read_table_file(path: Path, text: Collection[str]) -> TableFile:
    """Read CSV (any common separator and encoding) or Parquet, by content, or a folder of classes.

    Args:
        path: The file, or a folder of classes.
        text: Columns to read as text; others get the type that pandas infers.

    Raises:
        UserError: It is missing, empty, not a table, or ambiguous.
    """
    if path.is_dir():
        frame, digest, notes = read_folder(path)
        return TableFile(frame, RowNamer("image", 1), digest, notes)
    content = read_bytes(path)
    if content.startswith(b"PAR1"):
        frame, notes = _parquet(path, content, text)
        rows = RowNamer("row", 0)
    else:
        checked = check_text(path, content, {*NEEDED, *text})
        frame, decimal = parsed(path, checked, text)
        rows, notes = checked.rows, (*checked.notes, *decimal)
    frame = frame.dropna(how="all")
    if frame.empty:
        raise UserError(f"{path}: a table without rows; expected one row per image below the header")
    for name in frame.columns.intersection(list(text)):
        frame[name] = _as_text(frame[name])
    return TableFile(frame, rows, hashlib.sha256(content).hexdigest(), notes)


def no_column(path: Path, name: str, columns: Sequence[str], fix: str) -> UserError:
    """Return the error for a missing column, with the existing columns and the likely one."""
    meant = closest(name, columns)
    hint = f" (did you mean {meant!r}?)" if meant else ""
    return UserError(f"{path}: no column {name!r}{hint}; it has {listed(columns)}; {fix}")


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most similar to ``name``, ignoring case, or None."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[matches[0]] if matches else None


def _parquet(path: Path, content: bytes, text: Collection[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read the columns of single values; those of lists or structs are left out, which is noted."""
    import pyarrow as pa
    from pyarrow import parquet

    # Without them, one null would turn whole numbers into rounded floats, and booleans into words.
    nullable: dict[pa.DataType, Any] = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
    }
    try:
        table = parquet.read_table(io.BytesIO(content))
        # Invalid bytes declared as text would crash on first access.
        table.validate(full=True)
        single = [number for number, field in enumerate(table.schema) if not pa.types.is_nested(field.type)]
        frame = table.select(single).to_pandas(types_mapper=nullable.get).reset_index(drop=True)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        message = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: a damaged Parquet file ({message}); write it again") from None
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    if double := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise UserError(f"{path}: two columns are called {shortened(double[0])}; rename one")
    lists = [field.name.strip() for field in table.schema if pa.types.is_nested(field.type)]
    if needed := [name for name in lists if name in text]:
        raise UserError(f"{path}: column {needed[0]!r} holds lists or structs; expected one value in each cell")
    return frame, tuple(f"column {name!r} holds lists or structs and is not used" for name in lists)


def parsed(path: Path, table: TextTable, text: Collection[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Parse checked text; columns other than ``text`` may have decimal commas, which is noted."""
    try:
        frame = pd.read_csv(
            io.StringIO(table.body),
            sep=table.separator,
            header=None,
            names=list(table.columns),
            dtype={name: str for name in table.columns if name in text},
            skipinitialspace=True,
            # A class may be called "None" or "NA": only an empty cell is empty.
            keep_default_na=False,
            na_values=[""],
            index_col=False,
            # Blank lines are dropped later, to keep row numbers.
            skip_blank_lines=False,
            low_memory=False,
        )
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: a table without rows; expected one row per image below the header") from None
    notes = []
    for name in frame.columns.difference(list(text), sort=False):
        if (numbers := _decimal_commas(frame[name])) is not None:
            frame[name] = numbers
            notes.append(f"column {name!r}: decimal commas, read as numbers")
    return frame, tuple(notes)


def _decimal_commas(column: pd.Series) -> pd.Series | None:
    """Parse a text column of decimal commas, or return None."""
    if not pd.api.types.is_string_dtype(column) or column.isna().all():
        return None
    if not has_decimal_commas(column.dropna().str.strip().tolist()):
        return None
    return pd.to_numeric(column.str.strip().str.replace(",", ".", regex=False))


def _as_text(column: pd.Series) -> pd.Series:
    """Return stripped text, NA if empty; whole numbers without a decimal point."""
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "bytes":
        column = column.str.decode("utf-8", errors="backslashreplace")
    if pd.api.types.is_bool_dtype(column):
        column = column.astype("Int8")
    elif pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    stripped = column.astype("string").str.strip()
    if (kept := stripped.str.startswith('="').fillna(False)).any():
        stripped[kept] = stripped[kept].map(as_cell)
    return stripped.mask(stripped == "")
