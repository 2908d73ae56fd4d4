"""Predictions of each sample by the members that were not trained on it, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from softfree.data.folds import Folds
from softfree.data.table import Table
from softfree.evaluation.calibration import choose_thresholds, fit_temperature
from softfree.evaluation.conformal import fit_sets
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.scoring import FOLD, THRESHOLD, logit_columns
from softfree.study.study_directory import MemberKey
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import probabilities


@dataclass(frozen=True)
class PooledPredictions:
    """Predictions for held-out samples.

    Attributes:
        frame: Rows as in ``predictions.csv`` with calibrated logits, the fold, and the thresholds of each row.
        calibration: Thresholds and conformal sets that suit all rows, for the ensemble.
        temperatures: Temperature of each member.
    """

    frame: pd.DataFrame
    calibration: Calibration
    temperatures: Mapping[MemberKey, float]


def pool_predictions(members: Mapping[MemberKey, Run], table: Table, folds: Folds) -> PooledPredictions:
    """Join the predictions of held-out samples.

    One temperature is fitted to the held-out samples of all folds together. Temperatures of single folds, or of all but
    one, would differ by chance, and samples of different folds would be ranked by them. Samples are classified by the
    thresholds that suit the other folds. With several draws of the folds, or several seeds, the calibrated logits of a
    sample are averaged.

    Args:
        members: The finished runs.
        table: The rows of the cross-validation, without fixed test rows.
        folds: The folds of these rows.

    Raises:
        UserError: Predictions of a member are missing.
    """
    task = table.task
    names = logit_columns(task)
    rows = table.frame["row"].to_numpy()
    frame = table.frame[["row", "split", "patient"]].reset_index(drop=True)
    seeds = sorted({key.seed for key in members})
    distances: list[np.ndarray] = []
    temperatures: dict[MemberKey, float] = {}
    draws, failed = [], pd.DataFrame({"status": "ok", "reason": ""}, index=rows)
    baselines: list[pd.DataFrame] = []
    for seed in seeds:
        for repeat, numbers in enumerate(folds.numbers, start=1):
            runs = {fold: members[MemberKey(fold + 1, repeat, seed)] for fold in range(len(folds.names))}
            held = {fold: _held_out(run, rows[numbers == fold]) for fold, run in runs.items()}
            joined = pd.concat(held.values()).loc[rows]
            logits = joined[names].to_numpy()
            readable = np.isfinite(logits).all(axis=1)
            temperature = fit_temperature(logits[readable], table.targets[readable], task)
            temperatures |= {MemberKey(fold + 1, repeat, seed): temperature for fold in runs}
            draws.append(logits / temperature)
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
    return PooledPredictions(pd.concat([frame, first], axis=1), overall, temperatures)


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
