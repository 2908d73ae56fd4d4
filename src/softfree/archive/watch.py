"""The rows of a task, with what is the same for all: files that changed meanwhile, and where they come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from softfree.archive.origin import COLUMNS, origin_of
from softfree.archive.task import Handler
from softfree_runtime.core.errors import ReadError
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import files_of

CHANGED = ReadError("the file changed while it was read; give the command again when it is complete", "changed")


def handle(handler: Handler, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
    """Return one row for each input; see :class:`softfree.archive.task.Handler`."""
    before = [_state(sample) for sample in samples]
    rows = handler(samples, numbers)
    changed = [old != new for old, new in zip(before, map(_state, samples), strict=True)]
    if any(changed):
        rows = _marked(rows, changed)
    origins = [origin_of(files_of(source)[0].path) for _, source, _ in samples]  # type: ignore[arg-type]
    for name, values in zip(COLUMNS, zip(*origins, strict=True), strict=True):
        rows = rows.append_column(name, pa.array(values, pa.string()))
    return rows


def _marked(rows: pa.Table, changed: Sequence[bool]) -> pa.Table:
    """Give the rows of changed files their status, and empty what was made of them."""
    keep = {"path", "case_id"}
    records = [
        {name: value if name in keep or not new else None for name, value in record.items()}
        | ({"status": CHANGED.status, "reason": CHANGED.reason} if new else {})
        for record, new in zip(rows.to_pylist(), changed, strict=True)
    ]
    return pa.Table.from_pylist(records, schema=rows.schema)


def _state(sample: NamedSource) -> tuple[tuple[int, int] | None, ...]:
    """Return size and time of change of the files of an input, to see whether they change meanwhile."""
    return tuple(_stat(Path(file.path)) for file in files_of(sample[1]))  # type: ignore[arg-type]


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None
    return found.st_size, found.st_mtime_ns
