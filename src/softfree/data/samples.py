"""Samples from the rows of a table: joined with their resolution, or by case."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.modalities.registry import MODALITIES, Modality
from softfree.data.table import Table
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.nifti_file import header_and_voxels
from softfree_runtime.sources.cases import CASE, TIME, VIEW, group_rows, make_case, parse_times
from softfree_runtime.sources.sample_source import (
    Case,
    CaseFile,
    SourceFile,
    file_of,
    files_of,
    resolution,
    sample_source,
)


def parts_of(path: Path) -> list[Path]:
    """List the files that hold a sample: all below a folder, both of a NIfTI pair, an MRXS slide with its data."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.name.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        with suppress(ReadError, OSError, EOFError, zlib.error):  # reading it will tell what is wrong
            return sorted(set(header_and_voxels(path)))
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        return [path, *parts_of(path.with_suffix(""))]
    return [path]


def as_samples(table: Table, modality: Modality, *, variables: Sequence[str] = ()) -> Table:
    """Join rows with their resolution, of slides and bags, with their variables, and the rows of each case.

    Args:
        table: Its rows.
        modality: Kind of the samples.
        variables: Columns with clinical variables; the table may lack them.

    Raises:
        UserError: Joined rows that disagree.
    """
    if modality.name == "case" or (modality.padded and CASE in table.frame) or variables:
        if CASE in table.frame and not modality.padded:  # slides, which are not joined
            table = replace(table, frame=table.frame.drop(columns=CASE))
        return join_cases(table, variables, has_resolution=modality.has_resolution)
    return with_resolution(table) if modality.has_resolution else table


def training_modality(
    table: Table, modality: Modality, variables: Sequence[str] = (), views: Path | None = None
) -> Modality:
    """Return the modality of a training: cases, if images or volumes have a column ``case_id`` or clinical variables.

    Raises:
        UserError: Cases of samples that cannot be joined, or settings of views (``--views``) without cases.
    """
    if views is not None and (CASE not in table.frame or modality.name == "bag"):
        raise UserError(f"--views {views}: it is for images and volumes of cases, in tables with a column {CASE}")
    if modality.name == "bag" or (CASE not in table.frame and (not variables or modality.name == "slide")):
        return modality
    if modality.name not in ("image", "volume"):
        raise UserError(
            f"the table has a column {CASE}, and {modality.plural} cannot be joined by it; join the features of their"
            " tiles (see softfree features), or rename the column"
        )
    return MODALITIES["case"]


def join_cases(table: Table, variables: Sequence[str] = (), *, has_resolution: bool = False) -> Table:
    """Join the rows of each case into one sample; without a column ``case_id``, each row is a case.

    Args:
        table: The rows.
        variables: Columns with clinical variables; the table may lack them. An empty cell of a row has the value of
            the other rows of the case.
        has_resolution: Use a column ``mpp``.

    Other columns keep their value if all rows of the case agree, else become empty; ``row`` is the first row.

    Raises:
        UserError: A row without a case, two images of one view and time, or rows of a case with different labels,
            splits, patients or variables; names the rows of the table.
    """
    frame = table.frame
    ids = frame[CASE].fillna("").astype(str).tolist() if CASE in frame else [f"row {row}" for row in frame["row"]]
    views = frame[VIEW].fillna("").astype(str).str.strip().tolist() if VIEW in frame else [""] * len(frame)
    times = parse_times(frame[TIME]) if TIME in frame else [None] * len(frame)
    mpp = resolutions(frame["mpp"]) if has_resolution and "mpp" in frame else [None] * len(frame)
    paths = [file_of(source).path for source in frame["file"]]  # which may have their resolution already
    columns = zip(paths, mpp, table.frames, views, times, strict=True)
    files = [CaseFile(*values) for values in columns]

    def names_of(positions: Collection[int]) -> str:
        return _rows_in_words(frame, np.array(list(positions)))

    groups = [np.array(group) for group in group_rows("the table", ids, names_of)]
    joined = _joined(table, groups)
    names = ids if CASE in frame else [""] * len(frame)
    cells = {name: frame[name].fillna("").astype(str).tolist() for name in variables if name in frame}
    cases: list[Any] = [
        make_case(
            "the table",
            names[group[0]],
            [files[row] for row in group],
            group.tolist(),
            names_of,
            {name: [column[row] for row in group] for name, column in cells.items()},
        )
        for group in groups
    ]
    own = joined.frame.assign(file=cases)
    if "frame" in own:
        own["frame"] = pd.array([None] * len(own), dtype="Int64")  # each image of a case has its own
    return replace(joined, frame=own)


def image_positions(table: Table) -> np.ndarray:
    """Return the position of the sample of each image: of each row itself, unless rows are cases."""
    counts = [len(source.files) if isinstance(source, Case) else 1 for source in table.sources]
    return np.repeat(np.arange(len(counts)), counts)


def single_images(table: Table) -> Table:
    """Return a row for each image of cases; a table without cases as it is."""
    if not any(isinstance(source, Case) for source in table.sources):
        return table
    files = [file for source in table.sources for file in files_of(source)]
    rows = table.take(image_positions(table))
    numbers = [file.frame if isinstance(file, CaseFile) else None for file in files]
    paths: list[Any] = [file.path for file in files]
    own = {"file": paths, "path": [os.path.relpath(path, table.folder) for path in paths]}
    return replace(rows, frame=rows.frame.assign(**own, frame=pd.array(numbers, dtype="Int64")))


def with_resolution(table: Table) -> Table:
    """Join each row's file with its column ``mpp``, if the table has one."""
    if "mpp" not in table.frame:
        return table
    pairs = zip(table.frame["file"], resolutions(table.frame["mpp"]), strict=True)
    sources: list[Any] = [sample_source(SourceFile(*pair)) for pair in pairs]
    return replace(table, frame=table.frame.assign(file=sources))


def resolutions(column: pd.Series) -> list[float | None]:
    """Parse the cells of a column ``mpp``; as :func:`softfree_runtime.sources.sample_source.resolution`."""
    return [resolution(cell) for cell in column.astype(object).where(column.notna(), None)]


def _joined(table: Table, groups: Sequence[np.ndarray]) -> Table:
    """Keep the first row of each group of rows, and of the other columns what its rows agree about."""
    frame = table.frame
    first = np.array([group[0] for group in groups])
    for group in groups:
        _refuse_disagreement(frame, table.targets, group)
    joined = frame.iloc[first].reset_index(drop=True)
    numbers = np.empty(len(frame), np.int64)
    for number, group in enumerate(groups):
        numbers[group] = number
    for name in joined.columns.difference(["file", "row", "patient", "split"]):
        agree = frame.groupby(numbers)[name].nunique(dropna=False).to_numpy() == 1
        joined[name] = joined[name].where(agree)
    keys = [table.keys[position] for position in first] if table.keys else ()
    return replace(table, frame=joined, targets=table.targets[first], keys=keys)


def _refuse_disagreement(frame: pd.DataFrame, targets: np.ndarray, group: np.ndarray) -> None:
    same = all(np.array_equal(targets[group[0]], targets[row], equal_nan=targets.dtype.kind == "f") for row in group)
    difference = None if same else "labels"
    if frame["split"].iloc[group].nunique() > 1:
        difference = "splits"
    if frame["patient"].iloc[group].nunique() > 1:
        difference = "patients"
    if difference is not None:
        raise UserError(
            f"{_rows_in_words(frame, group)} (counted from 0) are of one case and have different {difference};"
            f" give them one, or separate cases in {CASE}"
        )


def _rows_in_words(frame: pd.DataFrame, positions: np.ndarray) -> str:
    rows = ", ".join(str(row) for row in frame["row"].iloc[positions[:5]])
    more = f" and {len(positions) - 5} more" if len(positions) > 5 else ""
    return f"rows {rows}{more} of the table"
