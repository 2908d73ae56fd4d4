"""Samples from the rows of a table: joined with their resolution, and optionally grouped by patient."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.modalities.registry import Modality
from softfree.data.table import Table
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.nifti_file import header_and_voxels
from softfree_runtime.sources.sample_source import SourceFile, files_of, resolution, sample_source


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


def as_samples(table: Table, modality: Modality, *, group: bool = False) -> Table:
    """Join the resolution in a column ``mpp`` to slides and bags, and the bags of each patient to one.

    Args:
        table: Its rows.
        modality: Kind of the samples.
        group: Make one bag of all rows of a patient.

    Raises:
        UserError: ``group`` for samples that cannot be joined, or rows of a patient that disagree.
    """
    if group and not modality.padded:
        raise UserError(f"--group joins bags of tile features, not {modality.plural}; leave it out")
    if not modality.has_resolution:
        return table
    return group_by_patient(table) if group else with_resolution(table)


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
    frame = table.frame
    patients = pd.factorize(frame["patient"])[0]  # numbered in order of appearance
    groups = np.split(np.argsort(patients, kind="stable"), np.bincount(patients).cumsum()[:-1])
    first = np.array([group[0] for group in groups])
    for group in groups:
        _refuse_disagreement(frame, table.targets, group)
    joined = frame.iloc[first].reset_index(drop=True)
    files = [files_of(source) for source in frame["file"]]
    sources: list[Any] = [sample_source([file for row in group for file in files[row]]) for group in groups]
    joined["file"] = sources
    for name in joined.columns.difference(["file", "row", "patient", "split"]):
        agree = frame.groupby(patients)[name].nunique(dropna=False).to_numpy() == 1
        joined[name] = joined[name].where(agree)
    keys = [table.keys[position] for position in first] if table.keys else ()
    return replace(table, frame=joined, targets=table.targets[first], keys=keys)


def _refuse_disagreement(frame: pd.DataFrame, targets: np.ndarray, group: np.ndarray) -> None:
    same = all(np.array_equal(targets[group[0]], targets[row], equal_nan=targets.dtype.kind == "f") for row in group)
    difference = None if same else "labels"
    if frame["split"].iloc[group].nunique() > 1:
        difference = "splits"
    if difference is not None:
        rows = ", ".join(str(row) for row in frame["row"].iloc[group][:5])
        more = f" and {len(group) - 5} more" if len(group) > 5 else ""
        raise UserError(
            f"rows {rows}{more} of the table (counted from 0) are of one patient and have different {difference};"
            " give them one, or do without --group"
        )
