"""The user's table: files, labels, patients and splits, all checked before any image is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from softfree.core.options import Target
from softfree.data.label_columns import LabelColumns
from softfree.data.splits import split_patients, strata_in_words
from softfree.data.table_file import TableFile, closest, no_column, read_table_file
from softfree.data.target_file import TargetSpec
from softfree.data.variables import check_variables
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.core.task import Task
from softfree_runtime.sources.cases import CASE, TIME, VIEW
from softfree_runtime.sources.folder_names import split_named
from softfree_runtime.sources.identity import FORMS, Patients, identify_patients, refuse_nobody
from softfree_runtime.sources.row_paths import base_folder, resolve_paths
from softfree_runtime.sources.sample_source import SampleSource
from softfree_runtime.sources.table_text import FRAME

SPLITS = ("train", "val", "test")
_OWN = ("file", "patient", "row")
_PATIENT_LIKE = ("patient", "patientid", "patientname", "subject", "subjectid", "participantid", "mrn")
_PLAIN = re.compile(r"[\W_]+")
_IDENTIFYING = re.compile(
    r"\b(id|ids|pid|patient|patientid|subject|subjectid|caseid|studyid|name|names|surname|mrn|ssn|birth"
    r"|birthday|birthdate|dob|accession|accessionnumber|uid|uuid|guid|address|phone|email|path|file|filename)\b"
)
_MANY_ROWS = 20


class KnownSplit(Protocol):
    """A split that was drawn before; see :class:`softfree.data.split_file.RunSplit`."""

    whole: bool

    def splits_of(self, keys: Sequence[str]) -> list[str]:
        """Give the splits of patients by their names; empty for unknown ones."""

    def in_words(self) -> str:
        """Name where the split is from."""


@dataclass(frozen=True)
class Table:
    """Rows that belong to a task, with their targets.

    Attributes:
        frame: All columns of the file, and ``file`` (absolute path, or the :data:`SampleSource` that
            :func:`softfree.data.samples.as_samples` makes of it), ``split`` (train, val or test), ``patient``
            (anonymous int64 number, one per ``patient_id``, whose forms are one; a row without an id is a patient of
            its own) and ``row`` (counted from 0 in the file). ``frame``, when the file has it, is the frame of a
            multi-frame file, counted from 0, nullable.
        task: The task.
        targets: One per row, as :class:`softfree_runtime.core.task.Task` says.
        folder: Folder that relative paths start from.
        split_made: How the split was made, in words; None if the table has its own.
        digest: SHA-256 of the table's file.
        left_out: Number of rows of the file that are not used, by reason.
        notes: What was assumed, joined or left out, one sentence each.
        keys: Name of each row's patient, or else of its image, from which splits are drawn; never stored.
    """

    frame: pd.DataFrame
    task: Task
    targets: np.ndarray
    folder: Path
    split_made: str | None
    digest: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    keys: Sequence[str] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """Notes and counts of unused rows, for people."""
        unused = (f"{count:,} row{'' if count == 1 else 's'} left out: {why}" for why, count in self.left_out.items())
        return (*self.notes, *unused)

    @property
    def sources(self) -> list[SampleSource]:
        """Source of each row: its path, until :func:`softfree.data.samples.as_samples` adds resolution and group."""
        return self.frame["file"].tolist()

    @property
    def frames(self) -> list[int | None]:
        """Each row's frame of a multi-frame file, None where the table names none."""
        return frame_numbers(self.frame)

    def sources_by_row(self) -> dict[int, tuple[SampleSource, int | None]]:
        """Return source and frame by the number of the row in the table's file."""
        sources = zip(self.sources, self.frames, strict=True)
        return dict(zip(self.frame["row"].tolist(), sources, strict=True))

    def where(self, split: str) -> Table:
        """Return the rows of one split."""
        return self.take(np.flatnonzero(self.frame["split"] == split))

    def take(self, positions: np.ndarray) -> Table:
        """Return rows by their positions, counted from 0."""
        keys = [self.keys[position] for position in positions] if self.keys else ()
        frame = self.frame.iloc[positions].reset_index(drop=True)
        return replace(self, frame=frame, targets=self.targets[positions], keys=keys)


def read_table(
    path: str | Path,
    *,
    label: str = "label",
    event: str | None = None,
    labels: Sequence[str] | None = None,
    positive: str | None = None,
    task: Target | None = None,
    classes_in_order: Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    as_text: Sequence[str] = (),
    targets: Path | Sequence[TargetSpec] | None = None,
    image_root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    strict_patients: bool = True,
    known: KnownSplit | None = None,
) -> Table:
    """Read a CSV or Parquet table with a column ``path`` and labels, or a folder of classes; no image is opened.

    Rows of the split ``extra`` and rows without a label are not used; they are counted.

    Args:
        path: The table.
        label: Column with one class per row, or a number, or of survival the time.
        event: Of survival, the column with 1 (event) and 0 (censored).
        labels: Several 0/1 columns instead; an empty cell is unknown.
        positive: The positive class of a two-class task; default: the last in alphabetical order.
        task: ``ordinal`` if the classes have an order, ``regression`` if ``label`` holds numbers, ``survival``
            if it holds times to an event; default: classes without an order, or findings.
        classes_in_order: All classes of an ordinal task, from the lowest to the highest; default: whole numbers by
            their value.
        variables: Columns with clinical variables; see :mod:`softfree.data.variables`.
        categorical: Those of them whose numbers are categories.
        as_text: Other columns whose cells are kept as they are written, if the table has them.
        targets: Several targets instead: a file, or its content.
        image_root: Folder that relative paths start from and that contains all files; default: the table's folder.
        classes: Classes of a trained model, to which the labels must belong.
        seed: Seed of the split, if the table has none.
        val_fraction: Fraction of the images for validation, if the table has no split.
        test_fraction: Fraction of the images for testing; 1 makes everything a test set.
        strict_patients: Refuse a patient in two splits; an audit reports them instead.
        known: Earlier split of patients, used if the table has none; other patients are drawn. A whole one is used
            in any case, and other patients are left out.

    Raises:
        UserError: Names lines of the file, never a patient.
    """
    path = Path(path)
    asked = LabelColumns.create(label, event, labels, positive, task, classes_in_order, targets)
    wanted = asked.names
    source = read_table_file(
        path, {"path", "patient_id", "split", "frame", CASE, VIEW, *wanted, *(variables or as_text)}
    )
    _check_columns(path, list(source.frame.columns), wanted, many=labels is not None, fix=asked.remedy)
    source, words = asked.tidy(path, source, classes)
    source = _with_labels_of_cases(source, wanted)
    rows, left_out = _of_the_task(path, source, wanted, words)
    notes_on_variables = check_variables(path, rows, variables or (), categorical or (), wanted)
    read, values = asked.read(path, rows, classes)
    folder = base_folder(path, image_root)
    paths = rows.frame["path"].fillna("")
    frame = rows.frame.assign(
        file=resolve_paths(path, paths, rows.rows, rows.frame.index, folder), row=rows.frame.index
    )
    frame = _with_frame_numbers(path, frame, rows)
    _refuse_duplicates(path, frame, wanted, rows)
    named, notes = _patients(path, frame, folder, rows)
    keys: list[str] = named.tolist()
    frame["patient"] = pd.factorize(named)[0].astype(np.int64)
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    split_made = _add_split(frame, keys, read, values, fractions=fractions, seed=seed, known=known)
    if split_made is None and strict_patients:
        _refuse_shared_patients(path, frame, rows)
    notes = [
        *rows.notes,
        *notes_on_variables,
        *notes,
        *([] if split_made is None else _note_unused_split(rows.frame, wanted)),
    ]
    table = Table(
        frame.reset_index(drop=True), read, values, folder, split_made, rows.digest, left_out, tuple(notes), keys
    )
    return table if known is None or not known.whole else _known_rows(table)


def _add_split(
    frame: pd.DataFrame,
    keys: list[str],
    task: Task,
    values: np.ndarray,
    *,
    fractions: Mapping[str, float],
    seed: int,
    known: KnownSplit | None,
) -> str | None:
    """Add the column ``split``, unless the table has one and no whole earlier split replaces it.

    Returns:
        What the split is, in words; None if it is the table's own.
    """
    if known is not None and known.whole:
        frame["split"] = known.splits_of(keys)
        return known.in_words()
    if "split" in frame:
        return None
    before = None if known is None else known.splits_of(keys)
    frame["split"] = split_patients(task, values, frame["patient"].to_numpy(), keys, fractions, seed, before)
    drawn = _split_in_words(frame, fractions, seed, task)
    if known is None or before is None:
        return drawn
    new = len({key for key, split in zip(keys, before, strict=True) if not split})
    return f"as in {known.in_words()}; {new} new ones of {drawn}"


def _with_labels_of_cases(table: TableFile, wanted: list[str]) -> TableFile:
    """Give rows without a label that of another row of their case."""
    frame = table.frame
    if CASE not in frame:
        return table
    labels = frame[wanted]
    filled = labels.where(labels.notna(), frame.groupby(CASE)[wanted].transform("first"))
    count = int((labels.isna() & filled.notna()).any(axis=1).sum())
    if not count:
        return table
    note = f"{count} row{'' if count == 1 else 's'} without a label have that of another row of their case"
    return replace(table, frame=frame.assign(**{name: filled[name] for name in wanted}), notes=(*table.notes, note))


def _known_rows(table: Table) -> Table:
    """Leave out rows without a split, such as the fixed test rows of a cross-validation."""
    unknown = int((table.frame["split"] == "").sum())
    if not unknown:
        return table
    part = table.take(np.flatnonzero(table.frame["split"] != ""))
    return replace(part, left_out={**table.left_out, "in no fold": unknown})


def frame_numbers(rows: pd.DataFrame) -> list[int | None]:
    """Return the frame of each row, counted from 0, None where the rows name none."""
    if "frame" not in rows:
        return [None] * len(rows)
    return [None if pd.isna(number) else int(number) for number in rows["frame"]]


def may_identify(column: str) -> bool:
    """Return whether the values of a column may identify people, by its name: ids, names, birth dates or the like."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).casefold()
    return _IDENTIFYING.search(re.sub(r"[^a-z]+", " ", words)) is not None


def patients_across_splits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``frame`` whose patient is in more than one split."""
    return frame[frame.groupby("patient")["split"].transform("nunique") > 1]


def _check_columns(path: Path, columns: list[str], wanted: list[str], *, many: bool, fix: str | None = None) -> None:
    if "path" not in columns:
        raise no_column(path, "path", columns, "expected one with the image files, relative to the table")
    for name in wanted:
        if name not in columns:
            own = "name others with --labels" if many else "name the one with the classes with --label"
            raise no_column(path, name, columns, fix or own)
    taken = {name: _PLAIN.sub("", name.casefold()) for name in columns}
    alike = [name for name in columns if taken[name] in _PATIENT_LIKE]
    if "patient_id" not in columns and alike:
        raise UserError(
            f"{path}: column {alike[0]!r} looks like patients; rename it to patient_id, so that no patient is in"
            " two splits"
        )
    for known in ("split", "frame", "mpp", CASE, *([VIEW, TIME] if CASE in columns else [])):
        if known not in columns and (near := [name for name in columns if name.casefold() == known]):
            raise UserError(f"{path}: column {near[0]!r} would be ignored; rename it to {known}, or to another word")
    if owned := [name for name in columns if name in _OWN]:
        raise UserError(f"{path}: column {owned[0]!r} has a name that softfree reserves; rename it")


def _note_unused_split(frame: pd.DataFrame, wanted: list[str]) -> list[str]:
    """Return a note if a column holds splits under another name."""
    if "split" in frame:
        return []
    texts = [str(name) for name in frame.columns.difference(wanted) if pd.api.types.is_string_dtype(frame[name])]
    split_like = (name for name in texts if _holds_splits(frame[name].dropna().unique()))
    return [
        f"column {name!r} seems to hold splits but is not used; rename it to split to use them" for name in split_like
    ]


def _holds_splits(values: np.ndarray) -> bool:
    return 2 <= len(values) <= 4 and len({split_named(str(value)) for value in values} - {None}) == len(values)


def _of_the_task(
    path: Path, source: TableFile, wanted: list[str], words: pd.Series
) -> tuple[TableFile, dict[str, int]]:
    """Return rows with a label outside split ``extra``, and counts of the others; an empty split column is dropped.

    ``words`` are the words that stood for a missing label.
    """
    frame = source.frame
    if "split" in frame and frame["split"].isna().all():
        frame = frame.drop(columns="split")
    extra = pd.Series(False, frame.index)
    if "split" in frame:
        known = frame["split"].isna() | frame["split"].isin([*SPLITS, "extra"])
        if not known.all():
            value = frame["split"][~known].iloc[0]
            meant = split_named(value) or closest(value, (*SPLITS, "extra"))
            hint = f" (did you mean {meant!r}?)" if meant else ""
            where = source.rows.name(frame.index[~known])
            raise UserError(f"{path}: split {shortened(value)}{hint} in {where}; expected train, val, test or extra")
        extra = frame["split"].eq("extra").fillna(False)
    unlabeled = ~extra & frame[wanted].isna().all(axis=1)
    words = words[unlabeled.reindex(words.index)]
    left_out = {"split is extra": int(extra.sum()), "no label": int(unlabeled.sum()) - len(words)}
    left_out |= {f"no label but {word!r}": int(count) for word, count in words.value_counts().items()}
    left_out = {reason: count for reason, count in left_out.items() if count}
    frame = frame[~(extra | unlabeled)]
    if frame.empty:
        why = " and ".join(f"{count} without use ({reason})" for reason, count in left_out.items())
        raise UserError(f"{path}: no row belongs to the task: {why}; give some rows a label and a split")
    if "split" in frame and (empty_split := frame["split"].isna()).any():
        where = source.rows.name(frame.index[empty_split])
        raise UserError(
            f"{path}: {empty_split.sum()} of {len(frame)} rows have no split ({where}); fill them all in, or remove"
            " the column to have one drawn"
        )
    return replace(source, frame=frame), left_out


def _patients(path: Path, frame: pd.DataFrame, folder: Path, table: TableFile) -> tuple[np.ndarray, list[str]]:
    """Name each row's patient, independent of the form of its id and the order of rows; return notes on assumptions.

    Returns:
        Texts ``(n,)``, made from the file for rows without an id; notes.
    """
    own = "image " + frame["file"].str.slice(len(str(folder).rstrip("/\\")) + 1)
    if "frame" in frame:
        own += " " + frame["frame"].astype("string").fillna("<NA>")
    if CASE in frame:  # all images of a case are of one patient
        own = ("case " + frame[CASE]).fillna(own)
    if "patient_id" not in frame:
        return own.to_numpy(object), []
    numbers, ids = pd.factorize(frame["patient_id"])
    rows_of = dict(zip(map(str, ids), np.bincount(numbers[numbers >= 0], minlength=len(ids)).tolist(), strict=True))
    patients = identify_patients(rows_of)
    keys = np.array([*(patients.keys[text] for text in map(str, ids)), ""], dtype=object)[numbers]
    known = keys != ""
    notes = _patients_in_words(path, frame, known, patients, rows_of, table)
    return np.where(known, "patient " + keys, own.to_numpy(object)), notes


def _patients_in_words(
    path: Path, frame: pd.DataFrame, known: np.ndarray, patients: Patients, rows_of: Mapping[str, int], table: TableFile
) -> list[str]:
    notes = []
    if patients.nobody:
        count, total = sum(rows_of[text] for text in patients.nobody), sum(rows_of.values())
        refuse_nobody(path, patients.nobody, count, total)
        words = listed(sorted(map(repr, patients.nobody)), 5)
        notes.append(f"patient_id {words} identifies nobody: each of these {count} rows counts as a separate patient")
    if patients.joined:
        where = table.rows.name(frame.index[frame["patient_id"].isin(list(patients.joined))])
        count = len({patients.keys[text] for text in patients.joined})
        notes.append(
            f"{len(patients.joined)} patient ids that differ only in form ({FORMS}) are treated as"
            f" {count} patient{'' if count == 1 else 's'} ({where})"
        )
    largest = max((rows_of[text] for text in rows_of if text not in patients.nobody), default=0)
    if largest * 2 > len(frame) >= _MANY_ROWS and known.sum() > largest:
        notes.append(f"one patient has {largest} of {len(frame)} rows; does its id stand for nobody?")
    return notes


def _with_frame_numbers(path: Path, frame: pd.DataFrame, table: TableFile) -> pd.DataFrame:
    if "frame" not in frame:
        return frame
    numbers = frame["frame"]
    wrong = numbers.notna() & ~numbers.str.fullmatch(FRAME).fillna(True)
    if wrong.any():
        where, value = table.rows.name(frame.index[wrong]), shortened(numbers[wrong].iloc[0])
        raise UserError(f"{path}: frame {value} in {where}; expected 0, 1, 2, ... or an empty cell")
    return frame.assign(frame=pd.to_numeric(numbers).astype("Int64"))


def _refuse_duplicates(path: Path, frame: pd.DataFrame, wanted: list[str], table: TableFile) -> None:
    keys = ["file", "frame"] if "frame" in frame else ["file"]
    if "frame" in frame:
        frame = frame.assign(frame=frame["frame"].fillna(0))  # an empty cell is the first frame
    again = frame.duplicated(keys, keep=False)
    if not again.any():
        return
    _, group = next(iter(frame[again].groupby(keys, dropna=False, sort=False)))
    same = len(group[wanted].drop_duplicates()) == 1
    labeled = "the same label" if same else "different labels"
    groups = frame[again].drop_duplicates(keys).shape[0]
    others = f" (and {groups - 1} more such images)" if groups > 1 else ""
    fix = "delete all but one" if same else "settle the label and delete the others"
    raise UserError(f"{path}: {table.rows.name(group.index)} name the same image with {labeled}{others}; {fix}")


def _refuse_shared_patients(path: Path, frame: pd.DataFrame, table: TableFile) -> None:
    shared = patients_across_splits(frame)
    if len(shared):
        count = shared["patient"].nunique()
        unit = "patient" if "patient_id" in frame else "case"
        who = f"1 {unit} is" if count == 1 else f"{count} {unit}s are"
        why = ""
        if unit == "patient" and shared.groupby("patient")["patient_id"].nunique().max() > 1:
            why = f", by ids that differ only in form ({FORMS}; two patients need ids that differ by more)"
        raise UserError(
            f"{path}: {who} in more than one split ({table.rows.name(shared.index)}){why};"
            f" put all rows of a {unit} into one split, or remove the column to have a split drawn"
        )


def _split_in_words(frame: pd.DataFrame, fractions: Mapping[str, float], seed: int, task: Task) -> str:
    shown = {name: fraction for name, fraction in fractions.items() if fraction > 1e-9}
    shares = ", ".join(f"{name} {100 * fraction:.0f} %" for name, fraction in shown.items())
    drawn = "patients" if "patient_id" in frame and frame["patient_id"].notna().any() else "images"
    warning = "" if drawn == "patients" else "; without patient ids, a patient may be in two splits"
    return f"{drawn} drawn into {shares}, stratified by {strata_in_words(task)}, seed {seed}{warning}"
