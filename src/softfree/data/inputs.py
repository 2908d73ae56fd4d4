"""Samples from files, folders, CSV and Parquet tables, and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from softfree.data.table_file import no_column, read_table_file
from softfree_runtime.sources import inputs as runtime_inputs
from softfree_runtime.sources.inputs import Input, NamedSource
from softfree_runtime.sources.table_text import read_bytes


def find_inputs(
    inputs: Sequence[Input],
    frame: int | None,
    kind: str = "image",
    image_root: str | Path | None = None,
    variables: Sequence[str] = (),
) -> list[NamedSource]:
    """See :func:`softfree_runtime.sources.inputs.find_inputs`; Parquet tables are supported, too.

    Args:
        inputs: Files, folders, tables and arrays.
        frame: Frame of multi-frame files.
        kind: Modality of the samples.
        image_root: Folder that the paths in tables start from and must stay in; default: each table's folder.
        variables: Columns with clinical variables; tables may lack them.
    """
    rows = partial(table_rows, kind=kind, image_root=image_root, variables=variables)
    return runtime_inputs.find_inputs(inputs, frame, kind, rows)


def table_rows(
    path: Path,
    frame: int | None,
    kind: str,
    image_root: str | Path | None = None,
    variables: Sequence[str] = (),
) -> list[NamedSource]:
    """Return name, source and frame of each row of a CSV or Parquet table; arguments as for :func:`find_inputs`."""
    if not read_bytes(path).startswith(b"PAR1"):
        return runtime_inputs.table_rows(path, frame, kind, image_root, variables)
    known = (*runtime_inputs.COLUMNS, *variables)
    source = read_table_file(path, known)
    table = source.frame[[name for name in known if name in source.frame]]
    if "path" not in table:
        raise no_column(path, "path", list(source.frame.columns), "expected one with the files, relative to the table")
    cells: Any = table.astype(object).where(table.notna(), "").to_dict("index")
    columns = [str(name) for name in table.columns]
    return runtime_inputs.rows_as_samples(path, cells, source.rows, columns, frame, kind, image_root, variables)
