"""Cross-validation in a study: one table per fold, split by patients, and pooled predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from softfree.data.table import Table, read_table
from softfree_lab.studies.trials import Trial, TrialKey
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing

SEED = 0  # of the folds, so that all variants and seeds have the same ones


def write_folds(path: Path, options: Mapping[str, Any], folds: int, folder: Path) -> list[Path]:
    """Write the table of each fold, with its own splits: one part is the test set, another one validation.

    All rows are used, whatever their split was, except those of the split extra. Parts have whole patients and about
    the same share of each class.

    Args:
        path: The table.
        options: Options of the recipe, for its label columns.
        folds: Number of folds.
        folder: Folder for ``fold1.csv`` and so on, whose paths remain relative to the folder of the table.

    Raises:
        UserError: Fewer than two folds, or a class with fewer patients than folds.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: expected 2 or more, or 0 for the split of the table")
    columns = {name: options[name] for name in ("label", "labels", "positive") if options.get(name) is not None}
    table = read_table(path, **columns, strict_patients=False)
    part_of = _parts(table, folds)
    tables = []
    folder.mkdir(parents=True, exist_ok=True)
    for fold in range(folds):
        split = np.where(part_of == fold, "test", np.where(part_of == (fold + 1) % folds, "val", "train"))
        rows = table.frame.drop(columns=["file", "patient", "row"])
        # Patients by number: names are not needed, and a bare number could be read as an id that identifies nobody.
        patients = "p" + table.frame["patient"].astype(str)
        rows = rows.assign(patient_id=patients, split=split)
        tables.append(folder / f"fold{fold + 1}.csv")
        with replacing(tables[-1]) as temporary:
            rows.to_csv(temporary, index=False)
    return tables


def _parts(table: Table, folds: int) -> np.ndarray:
    """Return the part of each row, from 0."""
    labels = table.targets if table.task.exclusive else np.unique(table.targets, axis=0, return_inverse=True)[1]
    patients = table.frame["patient"].to_numpy()
    if table.task.exclusive:
        for number, name in enumerate(table.task.classes):
            count = len(np.unique(patients[labels == number]))
            if count < folds:
                raise UserError(f"--folds {folds}: class {name!r} has {count} patients; expected one for each fold")
    parts = np.empty(len(labels), int)
    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=SEED)
    for number, (_, rows) in enumerate(folder.split(labels, labels.ravel(), patients)):
        parts[rows] = number
    return parts


def pool_folds(trials: Mapping[TrialKey, Trial]) -> dict[TrialKey, Trial]:
    """Pool the predictions of all folds of a variant and seed, so that every image is tested once.

    Times are summed over the folds, and memory is the maximum. A variant and seed with a missing fold is excluded if
    others of its data set have that fold.
    """
    groups: dict[TrialKey, dict[int, Trial]] = defaultdict(dict)
    for key, trial in trials.items():
        groups[key._replace(fold=0)][key.fold] = trial
    folds = {data: {key.fold for key in trials if key.data == data} for data in {key.data for key in trials}}
    return {key: _pooled(key, parts) for key, parts in sorted(groups.items()) if set(parts) == folds[key.data]}


def _pooled(key: TrialKey, parts: dict[int, Trial]) -> Trial:
    trials = [parts[fold] for fold in sorted(parts)]
    if len(trials) == 1:
        return trials[0]
    first = trials[0]
    patients, offset = [], 0
    for trial in trials:  # a patient is in one fold only
        patients += [offset + patient for patient in trial.patients]
        offset += max(trial.patients) + 1
    cost = dict(first.cost)
    for name in ("seconds", "cpu_seconds"):
        cost[name] = sum(trial.cost[name] for trial in trials)
    cost["peak_bytes"] = max(trial.cost["peak_bytes"] for trial in trials)
    cost["resumed"] = any(trial.cost["resumed"] for trial in trials)
    return replace(
        first,
        key=key,
        targets=[target for trial in trials for target in trial.targets],
        patients=patients,
        probabilities={
            scale: [row for trial in trials for row in trial.probabilities[scale]] for scale in first.probabilities
        },
        cost=cost,
        curve=[],
    )
