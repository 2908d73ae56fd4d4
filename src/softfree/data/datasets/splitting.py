"""Splits for rows of a public data set without one: by patient, stratified, reproducible by seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from softfree.data.datasets.base import DataSetRows
from softfree.data.splits import split_patients
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task
from softfree_runtime.sources.identity import identify_patients


def fill_splits(rows: DataSetRows, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Assign splits to rows without one, in the fractions of ``rows.fractions``.

    Rows without a label, and of classes with fewer patients than splits, get the split ``extra``, which is not
    used. Findings that are too rare are not stratified.

    Returns:
        The rows with a column ``split``, and notes on what could not be assigned.
    """
    frame = rows.frame.reset_index(drop=True)
    split = frame["split"].astype(object) if "split" in frame else pd.Series(None, frame.index, dtype=object)
    keys = _keys(frame)
    targets = list(rows.findings) or ["label"]
    split[split.isna() & frame[targets].isna().all(axis=1)] = "extra"
    notes: list[str] = []
    if not rows.findings:
        for name, patients in keys[split.isna()].groupby(frame["label"]).nunique().items():
            if patients < len(rows.fractions):
                split[split.isna() & (frame["label"] == name)] = "extra"
                count = f"{patients} patient{'s' if patients > 1 else ''}"
                notes.append(
                    f"class {str(name)!r} has {count}, too few for {len(rows.fractions)} splits; split 'extra'"
                )
    if (unassigned := split.isna()).any():
        draw = _draw_findings if rows.findings else _draw_classes
        split[unassigned] = draw(frame[unassigned], rows, keys[unassigned], seed)
    return frame.assign(split=split), notes


def _keys(frame: pd.DataFrame) -> pd.Series:
    """Name each row's patient as :func:`softfree.data.table.read_table` does, which unifies the forms of an id."""
    own = "image " + frame["path"].astype(str)
    if "patient_id" not in frame:
        return own
    ids = frame["patient_id"].dropna().astype(str)
    known = ids.map(identify_patients({str(text): int(count) for text, count in ids.value_counts().items()}).keys)
    return ("patient " + known[known != ""]).reindex(frame.index).fillna(own)


def _draw_classes(frame: pd.DataFrame, rows: DataSetRows, keys: pd.Series, seed: int) -> np.ndarray:
    targets, classes = pd.factorize(frame["label"], sort=True)
    task = Task("multiclass", tuple(map(str, classes)))
    return split_patients(task, targets.astype(np.int64), pd.factorize(keys)[0], keys.tolist(), rows.fractions, seed)


def _draw_findings(frame: pd.DataFrame, rows: DataSetRows, keys: pd.Series, seed: int) -> np.ndarray:
    patients = pd.factorize(keys)[0]
    having = {name: keys[frame[name] == 1].nunique() for name in rows.findings}
    names = sorted(
        (name for name in rows.findings if having[name] >= len(rows.fractions)), key=lambda name: -having[name]
    )
    while names:
        task = Task("multilabel", tuple(names))
        try:
            targets = frame[names].to_numpy(np.float32)
            return split_patients(task, targets, patients, keys.tolist(), rows.fractions, seed)
        except UserError:  # its few patients had to follow other findings: drop the rarest
            names.pop()
    same = np.zeros(len(frame), np.int64)
    return split_patients(Task("multiclass", ("any",)), same, patients, keys.tolist(), rows.fractions, seed)
