"""The inputs of an archive: listed once, in the order of processing, in a file that is read in pieces.

Each input is a number, a name and a source, as JSON: names of files may hold bytes that are not UTF-8.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.inputs import TABLES, NamedSource
from softfree_runtime.sources.sample_source import Case, CaseFile, SampleSource, SourceFile, files_of

ROWS = 1024  # of a row group, which is read at once
FURTHER = "column."  # before the names of columns that rows get at the end
SCHEMA = pa.schema([("name", pa.string()), ("source", pa.string()), ("frame", pa.int32())])


class InputList:
    """The inputs of an archive, read in pieces."""

    def __init__(self, path: Path) -> None:
        """Open a list.

        Raises:
            UserError: It is damaged.
        """
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); copy it again") from None
        self._group = -1
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def read(self, first: int, last: int) -> list[NamedSource]:
        """Return name, source and frame of the inputs ``first`` to ``last``, without the last."""
        return [self._input(number) for number in range(first, last)]

    def _input(self, number: int) -> NamedSource:
        group, row = divmod(number, ROWS)
        if group != self._group:
            self._rows = self._file.read_row_group(group).to_pylist()
            self._group = group
        found = self._rows[row]
        return found["name"], source_from_text(found["source"]), found["frame"]


def write_inputs(path: Path, samples: Sequence[NamedSource], columns: pa.Table | None = None) -> None:
    """Write the list of inputs, in their order, with further columns that their rows get at the end."""
    schema = SCHEMA
    for field in () if columns is None else columns.schema:
        schema = schema.append(field.with_name(f"{FURTHER}{field.name}"))
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for first in range(0, len(samples), ROWS):
            names, sources, frames = zip(*samples[first : first + ROWS], strict=True)
            texts = [source_to_text(source) for source in sources]
            further = [] if columns is None else columns.slice(first, ROWS).columns
            writer.write_table(pa.table([list(names), texts, list(frames), *further], schema=schema))


def further_columns(path: Path) -> pa.Table | None:
    """Return the further columns of a list of inputs; None if it has none."""
    names = [name for name in pq.read_schema(path).names if name.startswith(FURTHER)]
    if not names:
        return None
    return pq.read_table(path, columns=names).rename_columns([name.removeprefix(FURTHER) for name in names])


def source_to_text(source: SampleSource | DecodedImage) -> str:
    """Return a source as JSON in ASCII."""
    if isinstance(source, DecodedImage):
        raise UserError("an array has no place in an archive; expected files, folders or tables")
    if isinstance(source, str):
        return json.dumps(source)
    if isinstance(source, Case):
        files = [[file.path, file.mpp, file.frame, file.view, file.time] for file in source.files]
        return json.dumps({"files": files, "id": source.id, "variables": source.variables})
    return json.dumps([source.path, source.mpp])


def source_from_text(text: str) -> SampleSource:
    """Return the source that :func:`source_to_text` wrote."""
    value = json.loads(text)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return SourceFile(*value)
    variables = tuple((name, cell) for name, cell in value["variables"])
    return Case(tuple(CaseFile(*file) for file in value["files"]), value["id"], variables)


def ranks_of(samples: Sequence[NamedSource], order: str, inputs: Sequence[str]) -> np.ndarray:
    """Return the numbers of the inputs in the order of ``--order``; equal ones stay in the order given.

    Args:
        samples: The inputs.
        order: ``newest``, ``oldest``, a column of the only table, or ``-`` and a column.
        inputs: What the inputs were listed from.

    Raises:
        UserError: There is no such column.
    """
    if order not in ("newest", "oldest"):
        return _by_column(order, samples, inputs)
    times = [max((_modified(file.path) for file in files_of(_path(source))), default=0.0) for _, source, _ in samples]
    return np.argsort([-time if order == "newest" else time for time in times], kind="stable")


def _path(source: SampleSource | DecodedImage) -> SampleSource:
    assert not isinstance(source, DecodedImage)
    return source


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0  # its row will say why


def _by_column(order: str, samples: Sequence[NamedSource], inputs: Sequence[str]) -> np.ndarray:
    from softfree.data.table_file import no_column, read_table_file

    column = order.removeprefix("-")
    if len(inputs) != 1 or Path(inputs[0]).suffix.lower() not in TABLES:
        raise UserError(f"--order {order}: expected newest or oldest, or one table as the only input and its column")
    frame = read_table_file(Path(inputs[0]), {column, "path"}).frame
    if column not in frame:
        raise no_column(Path(inputs[0]), column, list(map(str, frame.columns)), "expected the column of --order")
    if len(frame) != len(samples):
        raise UserError(f"--order {order}: the rows of {inputs[0]} are joined to cases; expected newest or oldest")
    values = frame[column]
    numbers = values.astype("string").str.replace(",", ".", regex=False)
    try:
        values = numbers.astype("Float64")
    except (ValueError, TypeError):
        values = numbers
    ranked = values.reset_index(drop=True).sort_values(
        ascending=not order.startswith("-"), kind="stable", na_position="last"
    )
    return ranked.index.to_numpy()
