"""Folds of a cross-validation, by patient: each fold is held out once, and all others are trained on.

The file ``folds.json`` keeps them without naming anybody: patients are hashed with the digest of the table, as in
:mod:`softfree.data.split_file`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from softfree.data.follow_up import EVENT
from softfree.data.split_file import RunSplit, hashed_key
from softfree.data.splits import number_strata, strata_in_words
from softfree.data.table import Table, may_identify
from softfree.data.targets import tables_of, with_target
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.core.targets import Targets, single_targets

COLUMN = "fold"
"""A column of the table with folds of one's own."""


@dataclass(frozen=True)
class Folds:
    """The fold in which each row is held out.

    Attributes:
        names: Names of the folds, such as ``("1", "2", "3")`` or the sites; never values that may identify people.
        numbers: ``(R, n)`` for R repeats: the position of the fold in ``names``; -1 for rows of the fixed test set,
            which no fold trains on or holds out.
        made: How they were made, in words.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    made: str


def assign_folds(
    table: Table, count: int = 5, *, repeats: int = 1, by: str | None = None, seed: int = 0, use_test: bool = False
) -> Folds:
    """Assign rows to folds; a patient is in one fold only.

    A column ``fold`` of the table is used as it is; else each value of the column ``by`` (such as a site) becomes a
    fold, whose name is a number if the values may identify people; else patients are drawn, with about the same share
    of each class in each fold. The draw depends on the patients' names and the seed, not on the order of rows.

    Args:
        table: The rows.
        count: Number of folds to draw.
        repeats: Number of times that folds are drawn, each with another seed.
        by: Column to leave out by its values.
        seed: Seed of the first draw.
        use_test: Also use rows whose split is test; by default they are kept apart.

    Raises:
        UserError: Too few folds, patients or values of ``by``, a patient in two folds, or cells without a fold.
    """
    split = table.frame["split"].to_numpy()
    used = np.ones(len(split), bool) if use_test or table.split_made is not None else split != "test"
    if not used.any():
        raise UserError("all rows are in split test: no row is left to train on")
    part = table.take(np.flatnonzero(used))
    own = COLUMN in table.frame
    if own and by is not None:
        raise UserError(f"got folds by {by!r} for a table with a column {COLUMN!r}: use only one of them")
    if (own or by is not None) and repeats > 1:
        raise UserError(f"got {repeats} repeats of folds that are not drawn: expected 1")
    if repeats < 1:
        raise UserError(f"got {repeats} repeats: expected 1 or more")
    if own or by is not None:
        names, parts = _by_column(part, by or COLUMN)
        drawn, made = [parts], f"{len(names)} folds by the column {by or COLUMN!r}"
    else:
        names = tuple(str(number) for number in range(1, count + 1))
        _check_classes(part, count)
        drawn = [_drawn(part, count, seed + repeat) for repeat in range(repeats)]
        times = f", {repeats} times" if repeats > 1 else ""
        made = f"patients drawn into {count} folds{times}, stratified by {strata_in_words(table.task)}, seed {seed}"
    numbers = np.full((len(drawn), len(used)), -1)
    numbers[:, used] = drawn
    return Folds(names, numbers, made)


def write_folds(path: Path, table: Table, folds: Folds) -> None:
    """Write ``folds.json``."""
    salt = bytes.fromhex(table.digest)
    content = {
        "table_sha256": table.digest,
        "made": folds.made,
        "names": list(folds.names),
        "rows": table.frame["row"].tolist(),
        "keys": [hashed_key(key, salt) for key in table.keys],
        "numbers": folds.numbers.tolist(),
    }
    write_atomically(path, json.dumps(content))


def folds_of(table: Table, path: Path | None = None) -> list[str] | None:
    """Return the fold of each row, empty for rows in none.

    Args:
        table: The rows.
        path: ``folds.json``, of which the first draw is taken; default: the column ``fold`` of the table.

    Returns:
        None without a file and a column.

    Raises:
        UserError: The file is missing, damaged, or of another table.
    """
    if path is None:
        column = table.frame.get(COLUMN)
        return None if column is None else column.astype("string").fillna("").tolist()
    content = _content(path)
    salt, names = bytes.fromhex(content["table_sha256"]), [*content["names"], ""]  # -1 is in no fold
    known = {key: names[number] for key, number in zip(content["keys"], content["numbers"][0], strict=True)}
    folds = [known.get(hashed_key(key, salt), "") for key in table.keys]
    if not any(folds):
        raise UserError(f"{path} was made for another table: it knows no row of this one")
    return folds


def read_folds(path: Path) -> Folds:
    """Read the folds of ``folds.json``.

    Raises:
        UserError: It is missing or damaged.
    """
    content = _content(path)
    return Folds(tuple(content["names"]), np.array(content["numbers"], dtype=int), content["made"])


def split_of_fold(path: Path, fold: int, repeat: int = 1) -> RunSplit:
    """Return the split of one fold: its rows are validation, the other folds' are training.

    Args:
        path: ``folds.json``.
        fold: Number of the fold, from 1.
        repeat: Number of the draw, from 1.

    Raises:
        UserError: The file is missing or damaged, or has no such fold.
    """
    content, numbers = _draw(path, fold, repeat)
    by_key = {
        key: "val" if number == fold - 1 else "train"
        for key, number in zip(content["keys"], numbers, strict=True)
        if number >= 0
    }
    again = f", repeat {repeat}" if len(content["numbers"]) > 1 else ""
    source = f"fold {content['names'][fold - 1]} held out ({content['made']}{again})"
    return RunSplit(source, by_key, bytes.fromhex(content["table_sha256"]), whole=True)


def training_rows(path: Path, fold: int, repeat: int, digest: str) -> list[int]:
    """Return the numbers of the table's rows that are in other folds.

    Args:
        path: ``folds.json``.
        fold: Number of the fold, from 1.
        repeat: Number of the draw, from 1.
        digest: SHA-256 of the table.

    Raises:
        UserError: As for :func:`split_of_fold`, or the folds are of another table.
    """
    content, numbers = _draw(path, fold, repeat)
    if content["table_sha256"] != digest:
        raise UserError(f"{path} was made for another table, or for another version of it")
    return [row for row, number in zip(content["rows"], numbers, strict=True) if number not in (-1, fold - 1)]


def _draw(path: Path, fold: int, repeat: int) -> tuple[dict, list[int]]:
    """Return the content of the file and the fold of each row in one draw; refuse a fold that it does not have."""
    content = _content(path)
    names, numbers = content["names"], content["numbers"]
    if not 1 <= fold <= len(names) or not 1 <= repeat <= len(numbers):
        held = f"{len(names)} folds" + (f" and {len(numbers)} repeats" if len(numbers) > 1 else "")
        raise UserError(f"{path} has {held}: got fold {fold}" + (f" of repeat {repeat}" if repeat > 1 else ""))
    return content, numbers[repeat - 1]


def _content(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, names = len(content["rows"]), len(content["names"])
        numbers = np.array(content["numbers"], dtype=int)
        bytes.fromhex(content["table_sha256"])
        whole = (
            len(content["keys"]) == rows and numbers.shape[1] == rows and -1 <= numbers.min() <= numbers.max() < names
        )
    except FileNotFoundError:
        raise UserError(f"there is no {path}; expected the folds.json of a study") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged; copy the study again") from None
    return content


def _by_column(table: Table, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Make each value of a column a fold; returns their names and the fold of each row."""
    if column not in table.frame:
        known = ", ".join(str(name) for name in table.frame.columns if name not in ("row", "file", "patient"))
        raise UserError(f"folds by {column!r}: no such column; the table has {known}")
    values = table.frame[column]
    if values.isna().any():
        rows = table.frame["row"][values.isna()].tolist()
        raise UserError(
            f"column {column!r} is empty in {len(rows)} of {len(values)} rows ({_some(rows)}); fill them in, or give"
            " these rows the split extra to leave them out"
        )
    names = sorted(values.astype(str).unique(), key=lambda name: (len(name), name))
    parts = values.astype(str).map({name: number for number, name in enumerate(names)}).to_numpy()
    if secret := may_identify(column):
        names = [str(number) for number in range(1, len(names) + 1)]
    if len(names) < 2:
        only = "one value" if secret else f"the value {names[0]!r}"
        raise UserError(f"column {column!r} has only {only}: expected two or more to hold out in turn")
    patients = table.frame["patient"].to_numpy()
    several = pd.Series(parts).groupby(patients).nunique()
    if (shared := several[several > 1]).size:
        rows = table.frame["row"][np.isin(patients, shared.index)].tolist()
        raise UserError(
            f"column {column!r} puts {len(shared)} patient{'s' if len(shared) > 1 else ''} into more than one fold"
            f" ({_some(rows)}): a patient must be in one fold only"
        )
    _check_training_classes(table, parts, names)
    return tuple(names), parts


def _check_training_classes(table: Table, parts: np.ndarray, names: Sequence[str]) -> None:
    """Refuse a class that only one fold has: the training that holds it out could not learn it."""
    for label, marks in _marks(table).items():
        held = np.unique(parts[marks])
        if len(held) == 1:
            raise UserError(
                f"{label} is only in fold {names[held[0]]!r}, so that no training that holds it out sees it"
            )


def _check_classes(table: Table, count: int) -> None:
    if count < 2:
        raise UserError(f"got {count} folds: expected 2 or more")
    for target, part in tables_of(table).items():
        of = f" of target {target!r}" if target else ""
        patients = part.frame["patient"].to_numpy()
        if part.task.numeric and len(np.unique(patients)) < count:
            raise UserError(f"{count} folds: there are {len(np.unique(patients))} patients{of}; use fewer folds")
        for label, marks in _marks(part).items():
            number = len(np.unique(patients[marks]))
            in_each = part.task.exclusive or part.task.timed
            least = count if in_each else 2
            if number < least:
                wanted = "one for each fold" if in_each else "two, so that each training has one"
                few = f"{number} patient{'' if number == 1 else 's'}"
                raise UserError(
                    f"{count} folds: {label}{of} has {few}; expected {wanted}: use fewer folds, or leave it out"
                )


def _marks(table: Table) -> dict[str, np.ndarray]:
    """Return which rows have each class, each finding present and absent, the event, or a known number."""
    marks: dict[str, np.ndarray] = {}
    for name, task, targets in single_targets(table.task, table.targets):
        of = f" of target {name!r}" if name else ""
        if task.timed:
            marks |= {f"the event{of}": targets[:, EVENT] == 1}
        elif task.exclusive:
            marks |= {f"class {one!r}{of}": targets == number for number, one in enumerate(task.classes)}
        elif task.numeric:
            marks |= {f"a known value{of}": ~np.isnan(targets)}
        else:
            marks |= {f"finding {one!r}{of}": targets[:, number] == 1 for number, one in enumerate(task.classes)}
            marks |= {f"absence of {one!r}{of}": targets[:, number] == 0 for number, one in enumerate(task.classes)}
    return marks


def _drawn(table: Table, count: int, seed: int) -> np.ndarray:
    """Return the fold of each row, from 0."""
    patients = table.frame["patient"].to_numpy()
    labels = strata(table, len(np.unique(patients)) // count)
    by_name = np.argsort(
        [blake2b(f"{seed} {key}".encode(), digest_size=8).hexdigest() for key in table.keys], kind="stable"
    )
    # Patients by the order of their hashes, so that the draw does not depend on the order of rows.
    numbers = pd.factorize(patients[by_name])[0]
    parts = np.empty(len(labels), int)
    folder = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(folder.split(labels, labels[by_name], numbers)):
        parts[by_name[held]] = number
    return parts


def strata(table: Table, most: int = 5) -> np.ndarray:
    """Return the class by which each row is stratified; of several findings the rarest that it has.

    Numbers are stratified by up to ``most`` quantiles, survival by the event; several targets by the first, -1 where it
    is unknown.
    """
    if isinstance(table.task, Targets):
        first = table.task.classes[0]
        labels = np.full(len(table.frame), -1)
        labels[table.task.known(table.targets)[first]] = strata(with_target(table, first), most)
        return labels
    if table.task.numeric:
        return number_strata(table.targets, most)
    if table.task.timed:
        return table.targets[:, EVENT].astype(np.int64)
    if table.task.exclusive:
        return table.targets
    order = np.argsort(np.nansum(table.targets, axis=0), kind="stable")
    present = np.nan_to_num(table.targets)[:, order] == 1
    return np.where(present.any(axis=1), present.argmax(axis=1), len(order))


def _some(rows: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(str(row) for row in rows[:most])
    return f"row{'s' if len(rows) > 1 else ''} {shown}" + (f" and {len(rows) - most} more" if len(rows) > most else "")
