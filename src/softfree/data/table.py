"""The user's table: files, labels, patients and splits, all checked before any picture is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.data.labels import read_classes, read_findings
from softfree.data.split import split_patients
from softfree.data.table_file import TableFile, closest, no_column, read_table_file
from softfree.data.task import Task
from softfree.errors import UserError

SPLITS = ("train", "val", "test")
_OWN = ("file", "patient", "row")
_PATIENT_LIKE = ("patient", "patientid", "patient id", "patientname", "subject", "subject_id", "subjectid")


@dataclass(frozen=True)
class Table:
    """Rows that belong to a task, with their targets.

    Attributes:
        frame: all columns of the file, and ``file`` (absolute path), ``split`` (train, val or test), ``patient``
            (anonymous int64 number, one per ``patient_id``; a row without an id is a patient of its own) and ``row``
            (counted from 0 in the file). ``frame``, when the file has it, is the frame of a multi-frame file,
            counted from 0, nullable.
        task: what is to be predicted.
        targets: one per row, as :class:`softfree.data.task.Task` says.
        folder: where relative paths start.
        split_made: in words how the split was made, None when the table brought its own.
        digest: SHA-256 of the table's file.
        left_out: how many rows of the file belong to no task, by reason.
    """

    frame: pd.DataFrame
    task: Task
    targets: np.ndarray
    folder: Path
    split_made: str | None
    digest: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def where(self, split: str) -> Table:
        """Return the rows of one split."""
        chosen = (self.frame["split"] == split).to_numpy()
        return replace(self, frame=self.frame[chosen].reset_index(drop=True), targets=self.targets[chosen])


def read_table(
    path: str | Path,
    *,
    label: str = "label",
    labels: Sequence[str] | None = None,
    positive: str | None = None,
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    strict_patients: bool = True,
) -> Table:
    """Read a CSV or Parquet table with a column ``path`` and labels, or a folder of classes; no picture is opened.

    Rows of the split ``extra`` and rows without a label belong to no task; they are left out and counted.

    Args:
        path: the table.
        label: column with one class a row.
        labels: several 0/1 columns instead, an empty cell being unknown.
        positive: the positive class of a two-class task; the last in alphabetical order by default.
        images: folder that relative paths start from and that every path must lie in; the table's by default.
        classes: classes of a trained model, which the labels must be among.
        seed: of the split, when the table has none.
        val_fraction: part of the pictures for validation, when the table has no split.
        test_fraction: part of the pictures for testing; 1 makes everything a test set.
        strict_patients: refuse a patient in two splits; an audit reports them instead.

    Raises:
        UserError: one line for whatever is wrong, naming lines of the file and never a patient.
    """
    path = Path(path)
    wanted = [label] if labels is None else list(labels)
    source = read_table_file(path, {"path", "patient_id", "split", "frame", *wanted})
    _check_columns(path, list(source.frame.columns), wanted, many=labels is not None)
    if positive is not None and labels is not None:
        raise UserError("positive is for one label column with two classes; findings in several columns have none")
    rows, left_out = _of_the_task(path, source, wanted)
    if labels is None:
        task, targets = read_classes(path, rows, label, positive, classes)
    else:
        task, targets = read_findings(path, rows, labels, classes)
    own = path if path.is_dir() else path.parent
    folder = Path(os.path.abspath(own if images is None else images))
    if not folder.is_dir():
        raise UserError(f"--images {images}: no such folder; name the one that the table's paths start from")
    frame = rows.frame.assign(file=_files(path, rows, folder), patient=_patients(rows.frame), row=rows.frame.index)
    frame = _with_frame_numbers(path, frame, rows)
    _refuse_duplicates(path, frame, wanted, rows)
    split_made = None
    if "split" not in frame:
        fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
        frame["split"] = split_patients(task, targets, frame["patient"].to_numpy(), _keys(frame), fractions, seed)
        split_made = _split_in_words(frame, fractions, seed)
    elif strict_patients:
        _refuse_shared_patients(path, frame, rows)
    return Table(frame.reset_index(drop=True), task, targets, folder, split_made, rows.digest, left_out)


def patients_across_splits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``frame`` whose patient is in more than one split."""
    return frame[frame.groupby("patient")["split"].transform("nunique") > 1]


def _check_columns(path: Path, columns: list[str], wanted: list[str], *, many: bool) -> None:
    if "path" not in columns:
        raise no_column(path, "path", columns, "expected one with the picture files, relative to the table")
    for name in wanted:
        if name not in columns:
            mend = "name others with --labels" if many else "name the one with the classes with --label"
            raise no_column(path, name, columns, mend)
    alike = [name for name in columns if name.strip().casefold() in _PATIENT_LIKE]
    if "patient_id" not in columns and alike:
        raise UserError(
            f"{path}: column {alike[0]!r} looks like patients; rename it to patient_id, so that no patient gets into"
            " two splits"
        )
    if taken := [name for name in columns if name in _OWN]:
        raise UserError(f"{path}: column {taken[0]!r} has a name that softfree uses itself; rename it")


def _of_the_task(path: Path, source: TableFile, wanted: list[str]) -> tuple[TableFile, dict[str, int]]:
    """Rows with a label, outside split ``extra``; the split is whole or, when all its cells are empty, gone."""
    frame = source.frame
    if "split" in frame and frame["split"].isna().all():
        frame = frame.drop(columns="split")
    extra = pd.Series(False, frame.index)
    if "split" in frame:
        known = frame["split"].isna() | frame["split"].isin([*SPLITS, "extra"])
        if not known.all():
            value = frame["split"][~known].iloc[0]
            meant = "val" if value.casefold() in ("valid", "validation", "dev") else closest(value, (*SPLITS, "extra"))
            hint = f" (did you mean {meant!r}?)" if meant else ""
            where = source.rows.name(frame.index[~known])
            raise UserError(f"{path}: split {value!r}{hint} in {where}; expected train, val, test or extra")
        extra = frame["split"].eq("extra").fillna(False)
    unlabelled = ~extra & frame[wanted].isna().all(axis=1)
    left_out = {"split is extra": int(extra.sum()), "no label": int(unlabelled.sum())}
    left_out = {reason: count for reason, count in left_out.items() if count}
    frame = frame[~(extra | unlabelled)]
    if frame.empty:
        why = " and ".join(f"{count} without use ({reason})" for reason, count in left_out.items())
        raise UserError(f"{path}: no row belongs to the task: {why}; give some rows a label and a split")
    if "split" in frame and (empty := frame["split"].isna()).any():
        where = source.rows.name(frame.index[empty])
        raise UserError(
            f"{path}: {empty.sum()} of {len(frame)} rows have no split ({where}); fill them all in, or leave out the"
            " column to have a split made"
        )
    return replace(source, frame=frame), left_out


def _files(path: Path, table: TableFile, folder: Path) -> pd.Series:
    """Return absolute paths, refusing those outside ``folder``; no file is looked for."""
    paths = table.frame["path"]
    if (empty := paths.isna()).any():
        raise UserError(f"{path}: no path in {table.rows.name(paths.index[empty])}; fill it in or delete the row")
    if os.sep == "/" and (odd := paths.str.contains("\\", regex=False)).any():
        raise UserError(
            f"{path}: backslash in the path of {table.rows.name(paths.index[odd])}; write / between folders"
        )
    base = str(folder)
    files = base.rstrip(os.sep) + os.sep + paths
    # Most paths are plain; only the others are worth a call each.
    special = paths.str.contains(r"(?:^|[\\/])\.{0,2}(?:[\\/]|$)|^[A-Za-z]:", regex=True)
    files = files.mask(special, paths[special].map(lambda name: os.path.normpath(os.path.join(base, name))))
    inside = files.str.startswith(base.rstrip(os.sep) + os.sep)
    if not inside.all():
        raise UserError(
            f"{path}: the path of {table.rows.name(files.index[~inside])} leads out of {folder}; name the folder that"
            " holds all pictures with --images FOLDER"
        )
    return files


def _patients(frame: pd.DataFrame) -> np.ndarray:
    """Anonymous int64 numbers ``(n,)``, one per patient id, one per row without an id."""
    if "patient_id" not in frame:
        return np.arange(len(frame), dtype=np.int64)
    numbers, known = pd.factorize(frame["patient_id"])
    alone = numbers < 0
    numbers[alone] = len(known) + np.arange(alone.sum())
    return numbers.astype(np.int64)


def _keys(frame: pd.DataFrame) -> list[str]:
    """Name each row's patient, the same wherever the row stands in the table."""
    own = "picture " + frame["path"].astype(str)
    if "frame" in frame:
        own += " " + frame["frame"].astype(str)
    return own.tolist() if "patient_id" not in frame else ("patient " + frame["patient_id"]).fillna(own).tolist()


def _with_frame_numbers(path: Path, frame: pd.DataFrame, table: TableFile) -> pd.DataFrame:
    if "frame" not in frame:
        return frame
    numbers = frame["frame"]
    wrong = numbers.notna() & ~numbers.str.fullmatch(r"\d{1,9}").fillna(True)
    if wrong.any():
        where = table.rows.name(frame.index[wrong])
        raise UserError(f"{path}: frame {numbers[wrong].iloc[0]!r} in {where}; expected 0, 1, 2, ... or an empty cell")
    return frame.assign(frame=pd.to_numeric(numbers).astype("Int64"))


def _refuse_duplicates(path: Path, frame: pd.DataFrame, wanted: list[str], table: TableFile) -> None:
    keys = ["file", "frame"] if "frame" in frame else ["file"]
    again = frame.duplicated(keys, keep=False)
    if not again.any():
        return
    _, group = next(iter(frame[again].groupby(keys, dropna=False, sort=False)))
    same = len(group[wanted].drop_duplicates()) == 1
    labelled = "the same label" if same else "different labels"
    groups = frame[again].drop_duplicates(keys).shape[0]
    others = f" (and {groups - 1} more such pictures)" if groups > 1 else ""
    mend = "delete all but one" if same else "settle the label and delete the others"
    raise UserError(f"{path}: {table.rows.name(group.index)} name the same picture with {labelled}{others}; {mend}")


def _refuse_shared_patients(path: Path, frame: pd.DataFrame, table: TableFile) -> None:
    shared = patients_across_splits(frame)
    if len(shared):
        count = shared["patient"].nunique()
        who = "1 patient is" if count == 1 else f"{count} patients are"
        raise UserError(
            f"{path}: {who} in more than one split ({table.rows.name(shared.index)});"
            " put all rows of a patient into one split, or leave out the column to have a split made"
        )


def _split_in_words(frame: pd.DataFrame, fractions: Mapping[str, float], seed: int) -> str:
    kept = {name: part for name, part in fractions.items() if part > 1e-9}
    shares = ", ".join(f"{name} {100 * part:.0f} %" for name, part in kept.items())
    drawn = "patients" if "patient_id" in frame and frame["patient_id"].notna().any() else "pictures"
    warning = "" if drawn == "patients" else "; without patient ids, a patient may be in two splits"
    return f"{drawn} drawn into {shares}, stratified by class, seed {seed}{warning}"
