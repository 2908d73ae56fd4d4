"""Samples from the rows of a table: joined with their resolution, by case, or by patient."""

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
from softfree_runtime.sources.cases import CASE, TIME, VIEW, group_rows, make_case, parse_time
from softfree_runtime.sources.sample_source import Case, CaseFile, SourceFile, files_of, resolution, sample_source


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


def as_samples(table: Table, modality: Modality, *, group: bool = False, variables: Sequence[str] = ()) -> Table:
    """Join rows with their resolution, of slides and bags, and the rows of each case, or the bags of each patient.

    Args:
        table: Its rows.
        modality: Kind of the samples.
        group: Make one bag of all rows of a patient.
        variables: Columns with clinical variables of cases; the table may lack them.

    Raises:
        UserError: ``group`` for samples that cannot be joined, or joined rows that disagree.
    """
    if modality.name == "case":
        if group:
            raise UserError(f"--group joins bags of tile features; rows with the same {CASE} are joined anyway")
        return join_cases(table, variables)
    if group and not modality.padded:
        raise UserError(f"--group joins bags of tile features, not {modality.plural}; leave it out")
    if not modality.has_resolution:
        return table
    return group_by_patient(table) if group else with_resolution(table)


def training_modality(table: Table, modality: Modality, variables: Sequence[str] = ()) -> Modality:
    """Return the modality of a training: cases, if the table has a column ``case_id`` or there are clinical variables.

    Raises:
        UserError: Cases of samples that cannot be joined, or variables of such samples.
    """
    if CASE not in table.frame and not variables:
        return modality
    if variables and modality.name not in ("image", "volume"):
        raise UserError(
            f"--variables work beside images and volumes, and the samples of this run are {modality.plural}; leave"
            " them out"
        )
    if modality.name not in ("image", "volume"):
        fix = "use --group to join the rows of a patient" if modality.name == "bag" else "use softfree features first"
        raise UserError(
            f"the table has a column {CASE}, and {modality.plural} cannot be joined by it; rename it, or {fix}"
        )
    return MODALITIES["case"]


def join_cases(table: Table, variables: Sequence[str] = ()) -> Table:
    """Join the rows of each case into one sample; without a column ``case_id``, each row is a case.

    Args:
        table: The rows.
        variables: Columns with clinical variables; the table may lack them. An empty cell of a row has the value of
            the other rows of the case.

    Other columns keep their value if all rows of the case agree, else become empty; ``row`` is the first row.

    Raises:
        UserError: A row without a case, two images of one view and time, or rows of a case with different labels,
            splits, patients or variables; names the rows of the table.
    """
    frame = table.frame
    ids = frame[CASE].fillna("").astype(str).tolist() if CASE in frame else [f"row {row}" for row in frame["row"]]
    views = frame[VIEW].fillna("").astype(str).str.strip().tolist() if VIEW in frame else [""] * len(frame)
    times = [parse_time(cell) for cell in frame[TIME]] if TIME in frame else [None] * len(frame)
    files = [
        CaseFile(path, None, number, view, time)
        for path, number, view, time in zip(frame["file"], table.frames, views, times, strict=True)
    ]

    def names_of(positions: Collection[int]) -> str:
        return _rows_in_words(frame, np.array(list(positions)))

    groups = [np.array(group) for group in group_rows("the table", ids, names_of)]
    joined = _joined(table, groups, "case")
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
    sources: list[Any] = [sample_source([SourceFile(*pair)]) for pair in pairs]
    return replace(table, frame=table.frame.assign(file=sources))


def resolutions(column: pd.Series) -> list[float | None]:
    """Parse the cells of a column ``mpp``; as :func:`softfree_runtime.sources.sample_source.resolution`."""
    return [resolution(cell) for cell in column.astype(object).where(column.notna(), None)]


def group_by_patient(table: Table) -> Table:
    """Join all rows of a patient into one sample of several files.

    Other columns keep their value if all rows of the patient agree, else become empty; ``row`` is the first row.

    Raises:
        UserError: Rows of one patient have different labels or splits; names the rows of the table.
    """
    table = with_resolution(table)
    patients = pd.factorize(table.frame["patient"])[0]  # numbered in order of appearance
    groups = np.split(np.argsort(patients, kind="stable"), np.bincount(patients).cumsum()[:-1])
    joined = _joined(table, groups, "patient")
    files = [files_of(source) for source in table.frame["file"]]
    sources: list[Any] = [sample_source([file for row in group for file in files[row]]) for group in groups]
    return replace(joined, frame=joined.frame.assign(file=sources))


def _joined(table: Table, groups: Sequence[np.ndarray], unit: str) -> Table:
    """Keep the first row of each group of rows, and of the other columns what its rows agree about."""
    frame = table.frame
    first = np.array([group[0] for group in groups])
    for group in groups:
        _refuse_disagreement(frame, table.targets, group, unit)
    joined = frame.iloc[first].reset_index(drop=True)
    numbers = np.empty(len(frame), np.int64)
    for number, group in enumerate(groups):
        numbers[group] = number
    for name in joined.columns.difference(["file", "row", "patient", "split"]):
        agree = frame.groupby(numbers)[name].nunique(dropna=False).to_numpy() == 1
        joined[name] = joined[name].where(agree)
    keys = [table.keys[position] for position in first] if table.keys else ()
    return replace(table, frame=joined, targets=table.targets[first], keys=keys)


def _refuse_disagreement(frame: pd.DataFrame, targets: np.ndarray, group: np.ndarray, unit: str) -> None:
    same = all(np.array_equal(targets[group[0]], targets[row], equal_nan=targets.dtype.kind == "f") for row in group)
    difference = None if same else "labels"
    if frame["split"].iloc[group].nunique() > 1:
        difference = "splits"
    if frame["patient"].iloc[group].nunique() > 1:
        difference = "patients"
    if difference is not None:
        fix = "do without --group" if unit == "patient" else f"separate cases in {CASE}"
        raise UserError(
            f"{_rows_in_words(frame, group)} (counted from 0) are of one {unit} and have different {difference};"
            f" give them one, or {fix}"
        )


def _rows_in_words(frame: pd.DataFrame, positions: np.ndarray) -> str:
    rows = ", ".join(str(row) for row in frame["row"].iloc[positions[:5]])
    more = f" and {len(positions) - 5} more" if len(positions) > 5 else ""
    return f"rows {rows}{more} of the table"
