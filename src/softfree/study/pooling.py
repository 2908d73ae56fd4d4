"""Predictions of each sample by the members that were not trained on it, as one table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from softfree.data.folds import Folds
from softfree.data.table import Table
from softfree.evaluation.calibration import choose_thresholds, fit_temperature
from softfree.evaluation.conformal import fit_half_width, fit_sets
from softfree.evaluation.scores import Scores
from softfree.evaluation.values import Values
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.scoring import FOLD, HALF_WIDTH, THRESHOLD, fit_survival, logit_columns, target_columns
from softfree.study.study_directory import MemberKey
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import probabilities, values_of
from softfree_runtime.core.scale import Scale


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
    first_run = next(iter(members.values()))
    task = first_run.task
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
            if task.numeric or task.timed:
                draws.append(_values(joined, held, runs) if task.numeric else _centered(joined, held, runs))
                temperatures |= {MemberKey(f + 1, repeat, seed): run.calibration.temperature for f, run in runs.items()}
            else:
                temperature = fit_temperature(logits[readable], table.targets[readable], task)
                temperatures |= {MemberKey(fold + 1, repeat, seed): temperature for fold in runs}
                draws.append(logits / temperature)
            if "distance" in joined:
                distances.append(joined["distance"].to_numpy())
            unreadable = joined["status"] != "ok"
            failed.loc[unreadable, ["status", "reason"]] = joined.loc[unreadable, ["status", "reason"]].fillna("")
            baselines.append(joined[[name for name in joined if str(name).startswith("baseline_")]])
    frame[["status", "reason"]] = failed.to_numpy()
    frame[target_columns(task)] = table.targets.reshape(len(frame), -1)
    logits = np.mean(draws, axis=0)
    frame[names] = logits
    if len(distances) == len(draws):
        frame["distance"] = np.mean(distances, axis=0)
    frame[FOLD] = [folds.names[number] for number in folds.numbers[0]]
    coverage = first_run.config["options"]["coverage"]
    if task.timed:
        overall = Calibration(survival=fit_survival(first_run, frame))
    elif task.numeric:
        frame[HALF_WIDTH], overall = _half_widths(logits[:, 0], table, folds.numbers[0], coverage, members.values())
        assert overall.scale is not None
        frame[names[0]] = (logits[:, 0] - overall.scale.offset) * overall.temperature
    else:
        own, overall = _thresholds(logits, table, folds.numbers[0], coverage)
        for name, values in own.items():
            frame[f"{THRESHOLD}{name}"] = values
    first = baselines[0].reset_index(drop=True)
    return PooledPredictions(pd.concat([frame, first], axis=1), overall, temperatures)


def _values(joined: pd.DataFrame, held: Mapping[int, pd.DataFrame], runs: Mapping[int, Run]) -> np.ndarray:
    """Return the numbers ``(n, 1)`` that the members of a regression predict for their held-out rows."""
    values = pd.Series(np.nan, index=joined.index)
    for fold, rows in held.items():
        calibration = runs[fold].calibration
        assert calibration.scale is not None
        outputs = rows[logit_columns(runs[fold].task)].to_numpy()[:, 0]
        values[rows.index] = values_of(outputs, calibration.temperature, calibration.scale)
    return values.to_numpy()[:, None]


def _centered(joined: pd.DataFrame, held: Mapping[int, pd.DataFrame], runs: Mapping[int, Run]) -> np.ndarray:
    """Return the outputs ``(n, J)`` of the members of survival for their held-out rows.

    The log hazards of Cox models have no common zero: each member's are counted from their mean, which needs no
    outcomes, over the rows that it holds out.
    """
    outputs = joined[logit_columns(runs[0].task)].to_numpy(copy=True)
    for fold, rows in held.items():
        survival = runs[fold].calibration.survival
        assert survival is not None
        outputs[joined.index.isin(rows.index)] -= survival.center
    return outputs


def _half_widths(
    values: np.ndarray, table: Table, numbers: np.ndarray, coverage: float, members: Collection[Run]
) -> tuple[np.ndarray, Calibration]:
    """Choose half the width of the interval of each row on the other folds, NaN without; and the ensemble's on all.

    The scale of the ensemble is the mean of its members'.
    """
    offset = float(np.mean([run.calibration.scale.offset for run in members if run.calibration.scale]))
    std = float(np.mean([1 / run.calibration.temperature for run in members]))
    readable = np.isfinite(values)
    everyone = Values(table.task, values, table.targets, table.frame["patient"].to_numpy())
    own = np.full(len(values), np.nan)
    for fold in np.unique(numbers):
        if (width := fit_half_width(everyone.subset((numbers != fold) & readable), coverage)) is not None:
            own[numbers == fold] = width
    whole = fit_half_width(everyone.subset(readable), coverage)
    return own, Calibration(1 / std, scale=Scale(offset, coverage, whole))


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
