"""Tables for ``softfree train`` from official downloads of public data sets."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.data.datasets.base import DataSet
from softfree.data.datasets.cases import agreeing
from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.splitting import fill_splits
from softfree.data.table import patients_across_splits
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.sources.identity import patient_key

_SHOWN = 3
_OWN_OPTIONS = {"label": None, "uncertain": "empty", "unmentioned": "empty"}


@dataclass(frozen=True)
class PreparedDataSet:
    """A table that was written.

    Attributes:
        table: The file.
        rows: Number of rows by split.
        patients: Number of patients; None if unknown.
        cases: Number of cases, which have one or more rows; None if each row is a sample.
        findings: Columns for ``--labels``; empty if the table has a column ``label``.
        left_out: Files of the official download without a row, each with the reason.
        notes: What the user should know.
        command: Command that trains on it.
    """

    table: Path
    rows: dict[str, int]
    patients: int | None
    cases: int | None
    findings: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return vars(self) | {"table": str(self.table), "left_out": [list(file) for file in self.left_out]}

    def warning(self) -> str | None:
        """Return one line about the rows left out, or None."""
        if not self.left_out:
            return None
        total = sum(self.rows.values()) + len(self.left_out)
        return f"{len(self.left_out)} of {total} rows left out: {_named(self.left_out)}"


def prepare(data_set: DataSet, root: Path, options: PrepareOptions) -> PreparedDataSet:
    """Write the table of a data set in ``root`` (for MedMNIST its .npz file); nothing is downloaded.

    Raises:
        UserError: An official file or more than half of the images are missing, a patient or a case is in two official
            splits, or an option does not apply.
    """
    if not root.exists():
        raise UserError(f"{root}: no such folder; obtain {data_set.name} from {data_set.source}")
    for option, default in _OWN_OPTIONS.items():
        if option not in data_set.takes and getattr(options, option) != default:
            raise UserError(f"--{option} does not apply to {data_set.name}; remove it")
    folder = root if root.is_dir() else root.parent
    rows = data_set.read(root, replace(options, case=_case(data_set, options.case)))
    frame, torn = agreeing(rows.frame, rows.findings or ["label"], root)
    frame, notes = fill_splits(replace(rows, frame=frame), options.seed)
    frame, missing = _present(frame, folder)
    left_out = (*rows.left_out, *torn, *missing)
    if len(left_out) > len(frame):
        total = len(left_out) + len(frame)
        raise UserError(
            f"{root}: {len(left_out)} of {total} rows would be left out: {_named(left_out)}; unpack the whole"
            f" download of {data_set.name} ({data_set.source}) there"
        )
    if (frame["split"] == "extra").all():
        raise UserError(f"{root}: none of {len(frame)} rows has a label to learn; {'; '.join(notes) or 'name another'}")
    _refuse_shared_patients(frame, root)
    table = options.out or (root / "softfree.csv" if root.is_dir() else root.with_suffix(".csv"))
    with replacing(table) as temporary:
        _ordered(frame, rows.findings).to_csv(temporary, index=False)
    findings, unused = _usable(frame, rows.findings)
    joined = "case_id" in frame and bool(data_set.train_cases)
    return PreparedDataSet(
        table=table,
        rows={str(name): int(count) for name, count in frame["split"].value_counts().items()},
        patients=int(frame["patient_id"].nunique()) if "patient_id" in frame else None,
        cases=int(frame["case_id"].nunique()) if "case_id" in frame else None,
        findings=findings,
        left_out=left_out,
        notes=(*rows.notes, *notes, *unused),
        command=_command(
            table,
            folder,
            findings,
            f"{rows.train} {data_set.train_cases if joined else data_set.train}".strip(),
            features=joined,
        ),
    )


def _case(data_set: DataSet, wanted: str | None) -> Any:
    """Return what a case is: as wanted, or the default of the data set.

    Raises:
        UserError: The data set has no such cases.
    """
    if wanted is not None and wanted not in data_set.cases:
        fix = f"choose one of {', '.join(data_set.cases)}" if data_set.cases else "remove it"
        raise UserError(f"--case {wanted} does not apply to {data_set.name}; {fix}")
    return wanted or (data_set.cases[0] if data_set.cases else None)


def _present(frame: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return rows whose file or folder exists, and the paths of the others."""
    exists = frame["path"].map(lambda path: os.path.exists(folder / path)).astype(bool)
    return frame[exists].reset_index(drop=True), [(str(path), "no such file") for path in frame["path"][~exists]]


def _named(left_out: tuple[tuple[str, str], ...]) -> str:
    shown = ", ".join(f"{name} ({reason})" for name, reason in left_out[:_SHOWN])
    return shown + (f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else "")


def _refuse_shared_patients(frame: pd.DataFrame, root: Path) -> None:
    if "patient_id" not in frame:
        return
    known = frame[frame["split"] != "extra"]
    known = known.assign(patient=known["patient_id"].fillna("").astype(str).map(patient_key))
    shared = patients_across_splits(known[known["patient"] != ""])
    if len(shared):
        count = shared["patient"].nunique()
        raise UserError(
            f"{root}: {count} patient{'s are' if count > 1 else ' is'} in more than one official split"
            f" (first: {shared['path'].iloc[0]}); obtain the official lists again"
        )


def _ordered(frame: pd.DataFrame, findings: tuple[str, ...]) -> pd.DataFrame:
    """Return the columns in their usual order; findings as 0, 1 and empty."""
    first = ["path", *(findings or ["label"]), "patient_id", "case_id", "view", "time", "split"]
    columns = [name for name in first if name in frame]
    frame = frame[[*columns, *(name for name in frame if name not in columns)]]
    return frame.astype(dict.fromkeys(findings, "Int8"))


def _usable(frame: pd.DataFrame, findings: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """Return findings that are both present and absent, and a note about the others."""
    used = frame[frame["split"] != "extra"]
    usable = tuple(name for name in findings if used[name].nunique() > 1)
    others = [name for name in findings if name not in usable]
    note = f"never both 0 and 1, so not in --labels: {', '.join(others)}"
    return usable, [note] if others else []


def _command(table: Path, folder: Path, findings: tuple[str, ...], train: str, *, features: bool) -> str:
    """Return the command that trains on the table, for cases of slides after one that computes their features."""
    given = [shlex.quote(str(table))]
    if table.resolve().parent != folder.resolve():
        given.append(f"--image-root {shlex.quote(str(folder))}")
    labels = [f"--labels {shlex.quote('[' + ', '.join(findings) + ']')}"] if findings else []
    if not features:
        return " ".join(["softfree train", *given, *labels, train]).strip()
    out = table.parent / "features"
    encode = ["softfree features", *given, "--encoder pixels --out", shlex.quote(str(out))]
    train_words = ["softfree train", shlex.quote(str(out / "table.csv")), *labels, train]
    return f"{' '.join(encode)} && {' '.join(train_words)}"
