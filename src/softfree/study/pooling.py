"""Predictions of each sample by the members that were not trained on it, as one table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from softfree.data.folds import Folds
from softfree.data.table import Table
from softfree.evaluation.calibration import choose_thresholds, fit_temperature
from softfree.evaluation.conformal import fit_sets
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.scoring import FOLD, THRESHOLD
from softfree.study.study_directory import MemberKey
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.task import Task


def pool_predictions(members: Mapping[MemberKey, Run], table: Table, folds: Folds) -> tuple[pd.DataFrame, Calibration]:
    """Join the predictions of held-out samples.

    The logits of a fold are divided by the temperature that fits the other folds, and its samples are classified by the
    thresholds that suit these, so that nothing is chosen on the samples that it is measured on. With several draws of
    the folds, or several seeds, the calibrated logits of a sample are averaged.

    Args:
        members: The finished runs.
        table: The rows of the cross-validation, without fixed test rows.
        folds: The folds of these rows.

    Returns:
        Rows as in ``predictions.csv`` with calibrated logits, the fold, and the thresholds of each row; and thresholds
        and conformal sets that suit all rows, for the ensemble.

    Raises:
        UserError: Predictions of a member are missing.
    """
    task = table.task
    names = [f"logit_{name}" for name in task.classes]
    rows = table.frame["row"].to_numpy()
    frame = table.frame[["row", "split", "patient"]].reset_index(drop=True)
    seeds = sorted({key.seed for key in members})
    distances: list[np.ndarray] = []
    draws, failed = [], pd.DataFrame({"status": "ok", "reason": ""}, index=rows)
    baselines: list[pd.DataFrame] = []
    for seed in seeds:
        for repeat, numbers in enumerate(folds.numbers, start=1):
            runs = {fold: members[MemberKey(fold + 1, repeat, seed)] for fold in range(len(folds.names))}
            held = {fold: _held_out(run, rows[numbers == fold]) for fold, run in runs.items()}
            joined = pd.concat(held.values()).loc[rows]
            draws.append(_cross_calibrated(joined[names].to_numpy(), table.targets, numbers, task))
            if "distance" in joined:
                distances.append(joined["distance"].to_numpy())
            unreadable = joined["status"] != "ok"
            failed.loc[unreadable, ["status", "reason"]] = joined.loc[unreadable, ["status", "reason"]].fillna("")
            baselines.append(joined[[name for name in joined if str(name).startswith("baseline_")]])
    frame[["status", "reason"]] = failed.to_numpy()
    if task.exclusive:
        frame["target"] = table.targets
    else:
        frame[[f"target_{name}" for name in task.classes]] = table.targets
    logits = np.mean(draws, axis=0)
    frame[names] = logits
    if len(distances) == len(draws):
        frame["distance"] = np.mean(distances, axis=0)
    frame[FOLD] = [folds.names[number] for number in folds.numbers[0]]
    coverage = next(iter(members.values())).config["options"]["coverage"]
    own, overall = _thresholds(logits, table, folds.numbers[0], coverage)
    for name, values in own.items():
        frame[f"{THRESHOLD}{name}"] = values
    first = baselines[0].reset_index(drop=True)
    return pd.concat([frame, first], axis=1), overall


def _held_out(run: Run, rows: np.ndarray) -> pd.DataFrame:
    """Return the validation rows of a member's predictions, by row."""
    directory = run.directory
    if not directory.predictions.is_file() or not directory.is_unchanged(directory.predictions):
        raise UserError(f"{directory.predictions} is missing or was changed; delete {run.folder} to train it again")
    frame = directory.read_predictions()
    frame = frame[frame["split"] == "val"].set_index("row")
    if set(frame.index) != set(rows):
        raise UserError(f"{directory.predictions} has other rows than the fold; delete {run.folder}")
    return frame


def _cross_calibrated(logits: np.ndarray, targets: np.ndarray, numbers: np.ndarray, task: Task) -> np.ndarray:
    """Divide the logits of each fold by the temperature that fits the others."""
    calibrated = np.empty_like(logits)
    readable = np.isfinite(logits).all(axis=1)
    for fold in np.unique(numbers):
        others = (numbers != fold) & readable
        calibrated[numbers == fold] = logits[numbers == fold] / fit_temperature(logits[others], targets[others], task)
    return calibrated


def _thresholds(
    logits: np.ndarray, table: Table, numbers: np.ndarray, coverage: float
) -> tuple[dict[str, np.ndarray], Calibration]:
    """Choose thresholds for each row on the other folds; and those and the conformal sets of the ensemble on all."""
    task, readable = table.task, np.isfinite(logits).all(axis=1)
    patients = table.frame["patient"].to_numpy()
    scores = Scores(task, probabilities(logits, task), table.targets, patients)
    own = {task.classes[k]: np.empty(len(logits)) for k in task.scored}
    for fold in np.unique(numbers):
        for name, value in choose_thresholds(scores.subset((numbers != fold) & readable)).items():
            own[name][numbers == fold] = value
    whole = scores.subset(readable)
    return own, Calibration(1.0, choose_thresholds(whole), fit_sets(whole, coverage))
