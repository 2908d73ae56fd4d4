"""From a run and a table to predictions and calibrated scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples
from softfree.data.seen_rows import read_seen_rows
from softfree.data.table import Table, read_table
from softfree.evaluation.calibration import choose_thresholds, fit_temperature
from softfree.evaluation.conformal import fit_half_width, fit_sets
from softfree.evaluation.scores import Scores
from softfree.evaluation.values import Values
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.predict import outputs
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.inference.unusual import Distances, TokenMeans, is_unusual
from softfree.reporting.baselines import IMAGES, BaselinePredictions, column_of
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing, say
from softfree_runtime.core.outputs import probabilities, values_of
from softfree_runtime.core.scale import Scale
from softfree_runtime.core.task import Task
from softfree_runtime.preprocessing.case import variables_of
from softfree_runtime.sources.sample_source import Case

THRESHOLD = "threshold_"  # columns of predictions of a cross-validation: the threshold of each row
_DERIVED = (
    "p_",
    "raw_",
    "predicted",
    "set",
    "abstain",
    "unusual",
    "value",
    "low",
    "high",
)  # columns that follow from the others
HALF_WIDTH = "half_width"  # the same of a regression: half the width of the interval of each row
FOLD = "fold"  # the column with the fold in which each row was held out


def open_table(
    run: Run,
    path: Path | None = None,
    image_root: Path | None = None,
    *,
    label: str | None = None,
    labels: list[str] | None = None,
) -> Table:
    """Read a table with the run's classes; the run's own table, even if moved, gets the run's split.

    Args:
        run: The run.
        path: The table; default: where the run's own table was.
        image_root: Root folder of the paths.
        label: Column of the classes; default: as in training.
        labels: Several columns; default: as in training.

    Raises:
        UserError: The run's own table is missing or has changed since training.
    """
    if path is None:
        return own_table(run, how=f"softfree evaluate {run.folder} TABLE --out FOLDER")
    table = _read(run, path, image_root, label, labels)
    if _is_own(run, table) and run.config["table"].get("split"):
        table = _read(run, path, image_root, label, labels, own=True)
    say(path, table.sentences)
    return table


def own_table(run: Run, moved: Path | None = None, *, how: str) -> Table:
    """Read the table that a run was trained on, with the run's split.

    Args:
        run: The run.
        moved: Its new path, if it was moved.
        how: The command to pass its new path with, for messages.

    Raises:
        UserError: It is missing, or its content has changed.
    """
    options = run.config["options"]
    path = moved or Path(options["table"] or "table.csv")
    if not path.exists():
        problem = ": no such table" if moved else ", which the run was trained on, no longer exists"
        raise UserError(f"{path}{problem}; pass its new path: {how}")
    # The images may have been moved together with the table.
    image_root = Path(options["image_root"]) if options["image_root"] else None
    table = _read(run, path, None if moved and image_root and not image_root.exists() else image_root, own=True)
    if not _is_own(run, table):
        problem = "is not the table that" if moved else "has changed since"
        raise UserError(f"{path} {problem} the run was trained on{'' if moved else ' it'}; pass the right one: {how}")
    return table


def _is_own(run: Run, table: Table) -> bool:
    return table.digest == run.table_digest


def _read(
    run: Run,
    path: Path,
    image_root: Path | None,
    label: str | None = None,
    labels: list[str] | None = None,
    *,
    own: bool = False,
) -> Table:
    """Read a table with the run's classes; its own table has the run's split, another without splits is all test."""
    options = run.config["options"]
    labels = labels or (None if label else options["labels"])
    all_test = {"val_fraction": 0.0, "test_fraction": 1.0}
    split: dict[str, Any] = {"known": run.directory.drawn_split()} if own else all_test
    variables = variables_of(run.preprocessing)
    table = read_table(
        path,
        label=label or options["label"],
        labels=labels,
        positive=None if labels else options["positive"],
        task="ordinal" if run.task.ordered else "regression" if run.task.numeric else None,
        classes=run.task.classes,
        as_text=variables,
        image_root=image_root,
        seed=options["seed"],
        **split,
    )
    return as_samples(table, MODALITIES[run.preprocessing.kind], variables=variables)


def without_seen(run: Run, table: Table) -> tuple[Table, int]:
    """Leave out rows whose file or patient the run was trained on; the run's own table is already split.

    Returns:
        The table, and the number of rows left out.
    """
    if _is_own(run, table):
        return table, 0
    seen = read_seen_rows(run.directory.seen)
    if seen is None:
        return table, 0
    is_seen = seen.rows(table.frame)
    return table.take(np.flatnonzero(~is_seen)), int(is_seen.sum())


def predict_rows(
    run: Run,
    table: Table,
    options: InferenceOptions | None = None,
    baselines: BaselinePredictions | None = None,
    token_means: TokenMeans | None = None,
) -> pd.DataFrame:
    """Logits for all rows of ``table`` as in ``predictions.csv``: rows and patients by number, nothing by name.

    Args:
        run: The run.
        table: The rows.
        options: Of inference.
        baselines: Sees each sample; the probabilities of simpler models are included.
        token_means: Gets mean tokens, to estimate a distribution; otherwise the run's own gives ``distance``.
    """
    distances = Distances(run.distributions, len(table.frame)) if token_means is None and run.distributions else None
    dataset = SampleDataset(table.sources, None, run.preprocessing, frames=table.frames)
    watcher = token_means or distances
    logits = infer(run.model, dataset, len(run.task.outputs), options, on_sample=baselines, on_token_means=watcher)
    frame = table.frame[["row", "split", "patient"]].reset_index(drop=True)
    frame["status"] = [logits.failed[i].status if i in logits.failed else "ok" for i in range(len(frame))]
    # Without the names of files, which may be patients' names.
    errors = logits.partial | logits.failed
    frame["reason"] = [errors[i].reason if i in errors else "" for i in range(len(frame))]
    targets = np.asarray(table.targets)
    if targets.ndim == 1:
        frame["target"] = targets
    else:
        frame[[f"target_{name}" for name in run.task.classes]] = targets
    frame[logit_columns(run.task)] = logits.values
    if baselines is not None:
        frame = pd.concat([frame, baselines.columns()], axis=1)
        if variables_of(run.preprocessing):
            frame = pd.concat([frame, _without_variables(run, table, options)], axis=1)
    if distances is not None:
        frame["distance"] = distances.columns(logits.failed)["distance"]
    return frame


def _without_variables(run: Run, table: Table, options: InferenceOptions | None) -> pd.DataFrame:
    """Return what the model predicts without clinical variables, as the columns of a baseline."""
    sources = [replace(source, variables=()) if isinstance(source, Case) else source for source in table.sources]
    dataset = SampleDataset(sources, None, run.preprocessing, frames=table.frames)
    logits = infer(
        run.model, dataset, len(run.task.outputs), options, description="Predicting without clinical variables"
    ).values
    if run.task.numeric and run.calibration.scale is not None:
        found = values_of(logits, run.calibration.temperature, run.calibration.scale)
    elif run.task.numeric:
        target = run.config["target"]
        found = logits * target["standard_deviation"] + target["mean"]
    else:
        found = probabilities(logits, run.task)
    return pd.DataFrame(found, columns=[column_of(IMAGES, name) for name in run.task.classes])


def logit_columns(task: Task) -> list[str]:
    """Return the names of the columns of ``predictions.csv`` with the outputs of the model."""
    return [f"logit_{name}" for name in task.outputs]


def values_in(frame: pd.DataFrame, run: Run) -> Values:
    """Return the numbers that a regression predicts for the readable rows of a predictions frame."""
    calibration, scale = run.calibration, run.calibration.scale or Scale()
    frame = frame[frame["status"] == "ok"]
    predicted = values_of(frame[logit_columns(run.task)].to_numpy()[:, 0], calibration.temperature, scale)
    half = frame[HALF_WIDTH].to_numpy() if HALF_WIDTH in frame else None
    if half is None and scale.half_width is not None:
        half = np.full(len(frame), scale.half_width)
    return Values(run.task, predicted, frame["target"].to_numpy(), frame["patient"].to_numpy(), half)


def answers_of(frame: pd.DataFrame, run: Run) -> Scores | Values:
    """Return :func:`scores_of` or, for a regression, :func:`values_in`."""
    return values_in(frame, run) if run.task.numeric else scores_of(frame, run)


def scores_of(frame: pd.DataFrame, run: Run) -> Scores:
    """Return the calibrated scores of the readable rows of a predictions frame."""
    task = run.task
    frame = frame[frame["status"] == "ok"]
    targets = frame["target"].to_numpy() if task.exclusive else frame[[f"target_{c}" for c in task.classes]].to_numpy()
    logits = frame[logit_columns(task)].to_numpy()
    columns = {name: f"{THRESHOLD}{name}" for name in (task.classes[k] for k in task.scored)}
    thresholds = {name: frame[column].to_numpy() for name, column in columns.items() if column in frame}
    calibrated = probabilities(logits, task, run.calibration.temperature)
    return Scores(task, calibrated, targets, frame["patient"].to_numpy(), thresholds or None)


def calibrate(run: Run, validation: pd.DataFrame) -> Run:
    """Fit the temperature, then choose thresholds and conformal sets, on validation rows; store them in the run.

    A regression has no temperature to fit, but the scale of its training targets, and the width of its intervals.
    """
    if run.task.numeric:
        return _calibrate_numbers(run, validation)
    readable = validation[validation["status"] == "ok"]
    run = replace(run, calibration=Calibration())
    logits = readable[logit_columns(run.task)].to_numpy()
    temperature = fit_temperature(logits, scores_of(readable, run).targets, run.task)
    scores = scores_of(readable, replace(run, calibration=Calibration(temperature)))
    sets = fit_sets(scores, run.config["options"]["coverage"])
    return run.with_calibration(Calibration(temperature, choose_thresholds(scores), sets))


def _calibrate_numbers(run: Run, validation: pd.DataFrame) -> Run:
    target, coverage = run.config["target"], run.config["options"]["coverage"]
    scale = Scale(target["mean"], coverage)
    run = replace(run, calibration=Calibration(1 / target["standard_deviation"], scale=scale))
    half_width = fit_half_width(values_in(validation, run), coverage)
    return run.with_calibration(replace(run.calibration, scale=replace(scale, half_width=half_width)))


def write_predictions(path: Path, frame: pd.DataFrame, run: Run) -> None:
    """Write a predictions frame with its calibrated probabilities and labels."""
    logits = frame[logit_columns(run.task)].to_numpy()
    complete = pd.concat([frame.reset_index(drop=True), outputs(logits, run.task, run.calibration)], axis=1)
    if HALF_WIDTH in frame:
        complete["low"], complete["high"] = (complete["value"] + sign * complete[HALF_WIDTH] for sign in (-1, 1))
    if "distance" in frame:
        complete["unusual"] = is_unusual(complete["distance"])
    with replacing(path) as temporary:
        complete.to_csv(temporary, index=False)


def stored_rows(run: Run, table: Table) -> pd.DataFrame | None:
    """Return the predictions written at the end of training, if they cover exactly these rows."""
    directory = run.directory
    if not directory.predictions.is_file() or not directory.is_unchanged(directory.predictions):
        return None
    try:
        frame = directory.read_predictions().fillna({"reason": ""})
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        return None  # damaged: predict again
    if not {"row", "status", "reason"} <= set(frame.columns):
        return None
    frame = frame[frame["row"].isin(table.frame["row"])].reset_index(drop=True)
    is_same = len(frame) == len(table.frame) and set(frame["row"]) == set(table.frame["row"])
    return frame[[c for c in frame if not str(c).startswith(_DERIVED)]] if is_same else None
