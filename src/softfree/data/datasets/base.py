"""Adapters of public data sets, and readers for the files of official downloads."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from softfree.data.datasets.options import PrepareOptions
from softfree.data.table_file import no_column, parsed
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import say
from softfree_runtime.sources.table_text import check_text, read_bytes

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
TRAIN_VAL_FRACTIONS = {"train": 0.8, "val": 0.2}


@dataclass(frozen=True)
class DataSetRows:
    """Rows of a data set, before files are searched and splits are drawn.

    Attributes:
        frame: ``path`` (relative to the set's folder), ``label`` or the columns of ``findings`` (0, 1, NaN), and if
            available ``patient_id``, ``split``, ``case_id`` (the same for the images of one sample), ``view``,
            ``time``, and plain columns of variables and other targets. Rows without a split are assigned one.
        findings: Columns of independent findings; empty if there is a ``label``.
        fractions: Fraction of the rows without a split for each split.
        left_out: Names of files without a row, each with the reason.
        notes: What the user should know, one sentence each.
        train: Options of ``softfree train`` that what was prepared needs, before the suggested ones of the data set.
    """

    frame: pd.DataFrame
    findings: tuple[str, ...] = ()
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(FRACTIONS))
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    train: str = ""


@dataclass(frozen=True)
class DataSet:
    """A public data set whose official layout is supported.

    Attributes:
        name: Name on the command line.
        image: Kind of sample and file format.
        classes: What is predicted.
        source: Where to obtain it.
        terms: License or agreement.
        read: Function from the folder and the user's options to the rows.
        train: Suggested options of ``softfree train``.
        takes: Additional options of ``softfree prepare`` that it supports.
        cases: What a case can be, by ``--case``; the first is the default. Empty if each row is a sample.
        train_cases: Options of ``softfree train`` on cases of slides, after ``softfree features``.
    """

    name: str
    image: str
    classes: str
    source: str
    terms: str
    read: Callable[[Path, PrepareOptions], DataSetRows]
    train: str = ""
    takes: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    train_cases: str = ""


def official_file(root: Path, patterns: Sequence[str], source: str) -> Path:
    """Return the first file below ``root`` that matches one of the glob patterns.

    Raises:
        UserError: There is none.
    """
    for pattern in patterns:
        if matches := sorted(path for path in root.glob(pattern) if path.is_file()):
            return matches[0]
    raise UserError(f"{root}: no {patterns[0]}; it comes with the official download ({source}), or name its folder")


def read_official(root: Path, patterns: Sequence[str], columns: Sequence[str], source: str) -> pd.DataFrame:
    """Read a CSV (or .tab, .tsv, .gz) of the official download, all cells as text, empty ones as NaN.

    Raises:
        UserError: The file, or one of ``columns``, is missing.
    """
    path = official_file(root, patterns, source)
    frame = read_text(path)
    for name in columns:
        if name not in frame:
            raise no_column(path, name, list(frame.columns), f"expected the official file ({source})")
    return frame


def read_text(path: Path) -> pd.DataFrame:
    """Read a text table as text; leading lines that start with # are skipped.

    Raises:
        UserError: What :func:`~softfree_runtime.sources.table_text.check_text` refuses.
    """
    table = check_text(path, _content(path), ())
    say(path, table.notes)
    return parsed(path, table, table.columns)[0]


def read_sheet(path: Path) -> pd.DataFrame:
    """Read a CSV without a header as text; columns are numbered from 0."""
    try:
        text = io.StringIO(_content(path).decode("utf-8-sig"))
        return pd.read_csv(text, header=None, dtype=str, keep_default_na=False, na_values=[""])
    except (ParserError, EmptyDataError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read as a table ({reason}); obtain the file again") from None


def _content(path: Path) -> bytes:
    """Return the unpacked bytes of a file, without leading lines that start with #."""
    content = read_bytes(path)
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); obtain the file again") from None
    return re.sub(rb"\A(?:#[^\n]*\n)+", b"", content)


def without(column: pd.Series, *unknown: str) -> pd.Series:
    """Return the column with empty cells for words that mean 'unknown', ignoring case."""
    return column.mask(column.str.strip().str.casefold().isin([word.casefold() for word in unknown]))


def columns_of(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the existing columns of ``frame``, renamed to the names of softfree."""
    return frame[[name for name in names if name in frame]].rename(columns=dict(names))


def numbers(column: pd.Series, notes: list[str]) -> pd.Series:
    """Return a column of text as numbers (Int64 if all are whole); other text becomes empty, with a note."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    values = values.where(np.isfinite(values))
    if (wrong := values.isna() & column.notna()).any():
        notes.append(
            f"column {column.name!r}: {wrong.sum()} of {len(column)} cells are not numbers and left empty (first:"
            f" {column[wrong].iloc[0]!r})"
        )
    return values.astype("Int64") if (values.dropna() % 1 == 0).all() else values


def checked(column: pd.Series, pattern: str, path: Path, source: str, *, may_be_empty: bool = False) -> pd.Series:
    """Return the text of a column without outer spaces.

    Raises:
        UserError: A cell does not match the regular expression, or is empty and may not be.
    """
    text = column.str.strip()
    wrong = ~text.str.fullmatch(pattern).fillna(False).astype(bool) & ~(text.isna() & may_be_empty)
    if wrong.any():
        raise UserError(
            f"{path}: {wrong.sum()} of {len(text)} cells of {column.name!r} are not as expected (first:"
            f" {text[wrong].fillna('').iloc[0]!r}); obtain the file again ({source})"
        )
    return text


def wanted_label(path: Path, columns: Sequence[str], label: str | None) -> str:
    """Return the column that the user named.

    Raises:
        UserError: None was named, or it is missing.
    """
    if label is None:
        raise UserError(f"name the column to predict with --label COLUMN; {path} has {', '.join(columns)}")
    if label not in columns:
        raise no_column(path, label, columns, "choose another with --label")
    return label


def index_files(root: Path, folders: Sequence[str], endings: Sequence[str]) -> dict[str, str]:
    """Map the names of the files in folders (glob patterns below ``root``) to their paths relative to ``root``."""
    paths: dict[str, str] = {}
    for pattern in folders:
        for folder in sorted(root.glob(pattern)) if pattern != "." else [root]:
            if folder.is_dir():
                for path in sorted(folder.iterdir()):
                    if path.suffix.lower() in endings:
                        paths.setdefault(path.name, path.relative_to(root).as_posix())
    return paths
