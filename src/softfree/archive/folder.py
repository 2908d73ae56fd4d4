"""The folder of bulk work: what is computed, its inputs, and the results of finished blocks.

``archive.json``
    Model and options; another model or other options are refused.
``inputs.parquet``
    The inputs, in the order of processing.
``parts/FIRST-LAST.parquet``
    The rows of the inputs FIRST to LAST, whole blocks, written under a temporary name and renamed.
``progress.jsonl``, ``progress.prom``
    What a person or Prometheus can follow.
``results.parquet`` (of predictions ``predictions.parquet``), ``summary.html``, ``summary.json``
    All rows, and what they say; written when no input is left.
"""

from __future__ import annotations

import json
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softfree.archive.inputs import further_columns
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing, write_atomically

_PART = re.compile(r"(\d+)-(\d+)\.parquet")


class ArchiveFolder:
    """The files of bulk work.

    Args:
        root: The folder.
        results: Name of the file with all rows, without suffix.
    """

    def __init__(self, root: Path, results: str = "predictions") -> None:
        self.root = root
        self.identity = root / "archive.json"
        self.inputs = root / "inputs.parquet"
        self.parts = root / "parts"
        self.tries = root / ".tries"
        self.results = root / f"{results}.parquet"
        self.csv = root / f"{results}.csv"
        self.summary = root / "summary.json"
        self.page = root / "summary.html"

    def check_identity(self, identity: Mapping[str, Any]) -> bool:
        """Compare with what the folder was begun with; return whether it was begun.

        Raises:
            UserError: Another model, other inputs or other options; or a folder with other files.
        """
        if not self.identity.is_file():
            if self.root.is_dir() and any(self._is_other(path) for path in self.root.iterdir()):
                raise UserError(
                    f"--out {self.root} is a folder with other files; expected a new or empty folder, or one that this"
                    " command has begun"
                )
            return False
        try:
            begun = json.loads(self.identity.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{self.identity} is damaged; choose another --out") from None
        for name, value in identity.items():
            if begun.get(name) != value:
                raise UserError(
                    f"{self.root} was begun with {_shown(name, begun.get(name))}, and now it is {_shown(name, value)};"
                    " results of both would be mixed: use the same, or choose another --out"
                )
        return self.inputs.is_file()

    def _is_other(self, path: Path) -> bool:
        """Whether a file in a folder that was not begun is not what a listing leaves that was stopped or killed."""
        is_left = path == self.inputs or (path == self.parts and not any(path.iterdir()))
        return not path.name.startswith(".") and not is_left

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Write what is computed."""
        write_atomically(self.identity, json.dumps(identity, indent=2))

    def part_ranges(self) -> list[tuple[int, int]]:
        """List first and last input of each finished part, in order."""
        found = [_PART.fullmatch(path.name) for path in self.parts.glob("*.parquet")]
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def done(self, count: int) -> np.ndarray:
        """Return which of the inputs have a row (n,)."""
        done = np.zeros(count, bool)
        for first, last in self.part_ranges():
            done[first : last + 1] = True
        return done

    def write_part(self, first: int, rows: pa.Table) -> None:
        """Write the rows of inputs that follow each other.

        Raises:
            UserError: They cannot be written, for example because the disk is full.
        """
        path = self.parts / f"{first:09}-{first + rows.num_rows - 1:09}.parquet"
        with replacing(path) as temporary:
            pq.write_table(rows, temporary, compression="zstd")

    def remove_parts_of(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Remove the parts that begin in one of some ranges of inputs, ``(first, last)`` without the last."""
        ranges = list(ranges)
        firsts = [first for first, _ in ranges]
        for first, last in self.part_ranges():
            number = bisect_right(firsts, first) - 1
            if number >= 0 and first < ranges[number][1]:
                (self.parts / f"{first:09}-{last:09}.parquet").unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove temporary files of processes that were killed; no process may be writing here."""
        for path in self.parts.glob(".*"):
            path.unlink(missing_ok=True)

    def count_try(self, first: int) -> int:
        """Note that any process tries the block that begins at an input; return how often that was so far."""
        self.tries.mkdir(exist_ok=True)
        with open(self.tries / f"{first:09}", "ab") as file:
            file.write(b".")
            return file.tell()

    def forget_tries(self) -> None:
        """Begin to count the tries anew."""
        shutil.rmtree(self.tries, ignore_errors=True)

    def rows(self) -> Iterator[pa.Table]:
        """Yield the rows of all parts in the order of their inputs, each with the columns of all.

        Parts may overlap, where a block was handled again that was thought lost: the first row of an input counts.
        """
        parts: list[tuple[Path, int]] = []
        end = 0
        for first, last in self.part_ranges():
            if last >= end:
                parts.append((self.parts / f"{first:09}-{last:09}.parquet", max(0, end - first)))
                end = last + 1
        if not parts:
            return
        schema = _joined([pq.read_schema(path) for path, _ in parts])
        for path, seen in parts:
            table = pq.read_table(path).slice(seen)
            columns = [
                table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(len(table), field.type)
                for field in schema
            ]
            yield pa.table(columns, schema=schema)

    def write_results(self, *, csv: bool) -> int:
        """Join all parts to one file, with the further columns of the inputs; return the number of rows.

        Memory does not grow with them, but for further columns.
        """
        import pyarrow.csv as pa_csv

        found = further_columns(self.inputs) if self.inputs.is_file() else None
        further = pa.table({}) if found is None else found
        count = 0
        with ExitStack() as files:
            writer: pq.ParquetWriter | None = None
            for table in self.rows():
                for field in further.schema:
                    own = further[field.name].take(table["input"])
                    table = table.drop_columns(field.name) if field.name in table.column_names else table
                    table = table.append_column(field, own)  # what the table says of month, device or site is better
                plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
                if writer is None:
                    path = files.enter_context(replacing(self.results))
                    writer = files.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
                    if csv:
                        text = files.enter_context(replacing(self.csv))
                        lines = files.enter_context(pa_csv.CSVWriter(text, table.select(plain).schema))
                writer.write_table(table)
                if csv:
                    lines.write_table(table.select(plain))
                count += len(table)
        return count


def _joined(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Join schemas; where a part has no value of a column, its type is that of the others."""
    return pa.unify_schemas(list(dict.fromkeys(schemas)), promote_options="permissive")


def _shown(name: str, value: object) -> str:
    text = f"{value[:12]}..." if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value
    return f"{name.replace('_', ' ')} {text}"
