"""The list of inputs of an archive, made once, in a process of its own, whose memory ends with it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from softfree.archive.inputs import ranks_of, write_inputs
from softfree.archive.remote import addresses_of_table, is_remote, list_remote
from softfree.core.orphans import end_with
from softfree.data.inputs import find_inputs
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.identity import identify_patients
from softfree_runtime.sources.inputs import COLUMNS, TABLES, NamedSource

PATIENT, NUMBER = "patient_id", "patient"


class Wanted(NamedTuple):
    """What to list.

    Attributes:
        inputs: Files, folders, tables and addresses.
        frame: Frame of multi-frame files.
        image_root: Folder that the paths of tables start from.
        kind: Kind of the samples.
        variables: Columns with clinical variables.
        order: See :class:`softfree.core.options.BulkOptions`.
        keeps_columns: Whether rows get the other columns of a table, if it is the only input.
    """

    inputs: Sequence[str]
    frame: int | None
    image_root: Path | None
    kind: str
    variables: Sequence[str]
    order: str | None
    keeps_columns: bool


def list_inputs(path: Path, wanted: Wanted) -> None:
    """Write the list of inputs.

    Raises:
        UserError: There are none, or a table or an address cannot be used.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with, (os.getpid(),)) as pool:
        try:
            pool.submit(_list, path, wanted).result()
        except BrokenProcessPool:
            raise UserError("the process that lists the inputs was ended; is there enough memory?") from None


def _list(path: Path, wanted: Wanted) -> None:
    samples = [sample for item in wanted.inputs for sample in _listed(item, wanted)]
    columns = _columns(samples, wanted)
    if wanted.order is not None:
        ranks = ranks_of(samples, wanted.order, wanted.inputs)
        samples = [samples[rank] for rank in ranks]
        columns = None if columns is None else columns.take(pa.array(ranks))
    write_inputs(path, samples, columns)


def _listed(item: str, wanted: Wanted) -> list[NamedSource]:
    if is_remote(item):
        return list_remote(item, wanted.frame, wanted.kind)
    is_table = Path(item).suffix.lower() in TABLES
    if is_table and (rows := addresses_of_table(Path(item), wanted.frame, wanted.kind)) is not None:
        return rows
    return find_inputs([item], wanted.frame, wanted.kind, wanted.image_root, wanted.variables)


def _columns(samples: Sequence[NamedSource], wanted: Wanted) -> pa.Table | None:
    """Return the other columns of the only table as text; patients become numbers, and cases have none."""
    from softfree.data.table_file import read_table_file

    if not wanted.keeps_columns or len(wanted.inputs) != 1 or wanted.kind == "case":
        return None
    path = Path(wanted.inputs[0])
    if is_remote(wanted.inputs[0]) or path.suffix.lower() not in TABLES:
        return None
    known = [str(name) for name in read_table_file(path, {"path"}).frame.columns]
    frame = read_table_file(path, set(known)).frame
    if len(frame) != len(samples):
        return None
    columns: dict[str, pa.Array] = {}
    for name in frame:
        cells = frame[name].astype("string").replace("", None)
        if name == PATIENT:
            columns[NUMBER] = pa.array(_patient_numbers(cells.tolist()), pa.int32())
        elif name not in (*COLUMNS, "status", "reason", "features", "input", NUMBER):
            columns[str(name)] = pa.array(cells.tolist(), pa.string(), from_pandas=True)
    return pa.table(columns) if columns else None


def _patient_numbers(ids: Sequence[Any]) -> list[int | None]:
    """Number patients in the order in which they come; None for rows without one."""
    texts = ["" if not isinstance(text, str) else text for text in ids]
    unique, counts = np.unique(np.array(texts, dtype=object).astype(str), return_counts=True)
    patients = identify_patients({str(text): int(count) for text, count in zip(unique, counts, strict=True)})
    numbers: dict[str, int] = {}
    return [numbers.setdefault(key, len(numbers)) if (key := patients.keys[text]) else None for text in texts]
