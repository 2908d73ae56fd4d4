"""From a run and a table to predictions and calibrated scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from softfree.core.options import Target
from softfree.data.dataset import SampleDataset
from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples
from softfree.data.seen_rows import read_seen_rows, reads_series
from softfree.data.table import Table, read_table
from softfree.data.targets import specs_of
from softfree.evaluation.answers import Answers
from softfree.evaluation.breslow import breslow
from softfree.evaluation.calibration import choose_thresholds, fit_temperature
from softfree.evaluation.conformal import fit_half_width, fit_sets
from softfree.evaluation.scores import Scores
from softfree.evaluation.survival_calibration import fit_cox_slope, fit_hazards
from softfree.evaluation.times import Times, time_grid
from softfree.evaluation.values import Values
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.predict import by_target, outputs, prefixed
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.inference.unusual import Distances, TokenMeans, is_unusual
from softfree.reporting.baselines import IMAGES, BaselinePredictions, BaselinesOfTargets, column_of
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing, say
from softfree_runtime.core.outputs import probabilities, values_of
from softfree_runtime.core.scale import Scale
from softfree_runtime.core.survival import Survival
from softfree_runtime.core.targets import Targets, single_targets
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
    "risk",
    "survival_",
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
    event: str | None = None,
) -> Table:
    """Read a table with the run's classes; the run's own table, even if moved, gets the run's split.

    Args:
        run: The run.
        path: The table; default: where the run's own table was.
        image_root: Root folder of the paths.
        label: Column of the classes; default: as in training.
        labels: Several columns; default: as in training.
        event: Column of the events; default: as in training.

    Raises:
        UserError: The run's own table is missing or has changed since training.
    """
    if path is None:
        return own_table(run, how=f"softfree evaluate {run.folder} TABLE --out FOLDER")
    table = _read(run, path, image_root, label, labels, event)
    if _is_own(run, table) and run.config["table"].get("split"):
        table = _read(run, path, image_root, label, labels, event, own=True)
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
    event: str | None = None,
    *,
    own: bool = False,
) -> Table:
    """Read a table with the run's classes; its own table has the run's split, another without splits is all test."""
    options = run.config["options"]
    labels = labels or (None if label else options["labels"])
    all_test = {"val_fraction": 0.0, "test_fraction": 1.0}
    split: dict[str, Any] = {"known": run.directory.drawn_split()} if own else all_test
    variables = variables_of(run.preprocessing)
    if specs := specs_of(run.config):
        columns: dict[str, Any] = {"targets": specs}
    else:
        columns = {
            "label": label or options["label"],
            "labels": labels,
            "positive": None if labels else options["positive"],
            "task": run.task.kind if run.task.kind in get_args(Target) else None,
            "event": event or options.get("event"),
            "classes": run.task.classes,
        }
    table = read_table(
        path,
        **columns,
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
    is_seen = seen.rows(table.frame, whole_series=reads_series(run.preprocessing))
    return table.take(np.flatnonzero(~is_seen)), int(is_seen.sum())


def predict_rows(
    run: Run,
    table: Table,
    options: InferenceOptions | None = None,
    baselines: BaselinePredictions | BaselinesOfTargets | None = None,
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
    frame = pd.concat([frame, truth_and_logits(run.task, np.asarray(table.targets), logits.values)], axis=1)
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
    if run.parts:
        return prefixed({name: _as_images_alone(own, run.parts[name]) for name, own in by_target(logits, run).items()})
    return _as_images_alone(logits, run)


def _as_images_alone(logits: np.ndarray, run: Run) -> pd.DataFrame:
    """Return the columns of a baseline that follow from logits (n, K) of one target."""
    if run.task.timed:
        found = Survival(()).risks(logits, run.task)[:, None]
    elif run.task.numeric and run.calibration.scale is not None:
        found = values_of(logits, run.calibration.temperature, run.calibration.scale)
    elif run.task.numeric:
        target = run.config["target"]
        found = logits * target["standard_deviation"] + target["mean"]
    else:
        found = probabilities(logits, run.task)
    return pd.DataFrame(found, columns=[column_of(IMAGES, name) for name in run.task.classes])


def truth_and_logits(task: Task, targets: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """Return the columns of ``predictions.csv`` with truths and outputs; of several targets as ``<target>.<column>``.

    Args:
        task: What is predicted.
        targets: As the task says.
        logits: (n, K).
    """
    if isinstance(task, Targets):
        own = task.output_slices()
        return prefixed({name: truth_and_logits(one, truth, logits[:, own[name]])
                         for name, one, truth in single_targets(task, targets)})  # fmt: skip
    truths = dict(zip(target_columns(task), targets.reshape(len(targets), -1).T, strict=True))
    return pd.DataFrame(truths | dict(zip(logit_columns(task), logits.T, strict=True)))


def logit_columns(task: Task) -> list[str]:
    """Return the names of the columns of ``predictions.csv`` with the outputs of the model."""
    return [f"logit_{name}" for name in task.outputs]


def target_columns(task: Task) -> list[str]:
    """Return the names of the columns of ``predictions.csv`` with the targets."""
    if task.timed:
        return ["target_time", "target_event"]
    return [f"target_{name}" for name in task.classes] if task.kind == "multilabel" else ["target"]


def values_in(frame: pd.DataFrame, run: Run) -> Values:
    """Return the numbers that a regression predicts for the readable rows of a predictions frame."""
    calibration, scale = run.calibration, run.calibration.scale or Scale()
    frame = frame[frame["status"] == "ok"]
    predicted = values_of(frame[logit_columns(run.task)].to_numpy()[:, 0], calibration.temperature, scale)
    half = frame[HALF_WIDTH].to_numpy() if HALF_WIDTH in frame else None
    if half is None and scale.half_width is not None:
        half = np.full(len(frame), scale.half_width)
    return Values(run.task, predicted, frame["target"].to_numpy(), frame["patient"].to_numpy(), half)


def answers_of(frame: pd.DataFrame, run: Run) -> Answers:
    """Return :func:`scores_of` or, for a regression, :func:`values_in`, for survival :func:`times_in`."""
    if run.task.timed:
        return times_in(frame, run)
    return values_in(frame, run) if run.task.numeric else scores_of(frame, run)


def times_in(frame: pd.DataFrame, run: Run) -> Times:
    """Return the risks and survival that a run predicts for the readable rows of a predictions frame."""
    task, survival = run.task, run.calibration.survival
    assert survival is not None
    frame = frame[frame["status"] == "ok"]
    outputs = frame[logit_columns(task)].to_numpy() / run.calibration.temperature
    at, along = (
        survival.probabilities(outputs, task, np.asarray(times))
        for times in (survival.horizons, time_grid(survival.horizons))
    )
    targets, patients = frame[target_columns(task)].to_numpy(), frame["patient"].to_numpy()
    return Times(task, survival.risks(outputs, task), targets, patients, survival.horizons, at, along)


def scores_of(frame: pd.DataFrame, run: Run) -> Scores:
    """Return the calibrated scores of the readable rows of a predictions frame."""
    task = run.task
    frame = frame[frame["status"] == "ok"]
    targets = frame[target_columns(task)].to_numpy()
    targets = targets[:, 0] if task.exclusive else targets
    logits = frame[logit_columns(task)].to_numpy()
    columns = {name: f"{THRESHOLD}{name}" for name in (task.classes[k] for k in task.scored)}
    thresholds = {name: frame[column].to_numpy() for name, column in columns.items() if column in frame}
    calibrated = probabilities(logits, task, run.calibration.temperature)
    return Scores(task, calibrated, targets, frame["patient"].to_numpy(), thresholds or None)


def calibrate(run: Run, validation: pd.DataFrame) -> Run:
    """Fit the temperature, then choose thresholds and conformal sets, on validation rows; store them in the run.

    A regression has no temperature to fit, but the scale of its training targets, and the width of its intervals.
    Survival has horizons, slope and level of its outputs, and a Cox model the baseline of these rows.
    """
    if run.task.timed:
        return run.with_calibration(Calibration(survival=fit_survival(run, validation)))
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


def fit_survival(run: Run, frame: pd.DataFrame) -> Survival:
    """Return horizons, calibration and, of a Cox model, the baseline of the readable rows of a predictions frame."""
    horizons = tuple(run.config["target"]["horizons"])
    frame = frame[frame["status"] == "ok"]
    outputs, targets = frame[logit_columns(run.task)].to_numpy(), frame[target_columns(run.task)].to_numpy()
    if run.task.cuts:
        slope, level = fit_hazards(outputs, targets, run.task.cuts)
        return Survival(horizons, slope=slope, level=level)
    return breslow(outputs[:, 0], targets, horizons, fit_cox_slope(outputs[:, 0], targets))


def row_calibrations(frame: pd.DataFrame, run: Run) -> list[tuple[np.ndarray, Calibration]]:
    """Return rows of a predictions frame, boolean ``(n,)``, and the calibration to use for them.

    Each fold of a cross-validation has the thresholds and conformal sets of the others, so that the label of a row has
    no part in its own answer.
    """
    whole = run.calibration
    if FOLD not in frame or not run.task.by_class:
        return [(np.ones(len(frame), dtype=bool), whole)]
    folds, readable = frame[FOLD].astype(str).to_numpy(), (frame["status"] == "ok").to_numpy()
    scores = scores_of(frame, run)
    found = []
    for fold in pd.unique(folds):
        first = frame[folds == fold].iloc[0]
        own = {name: float(first[f"{THRESHOLD}{name}"]) for name in scores.thresholds or ()}
        sets = whole.sets and fit_sets(scores.subset(folds[readable] != fold), whole.sets.coverage)
        found.append((folds == fold, replace(whole, thresholds=whole.thresholds | own, sets=sets)))
    return found


def write_predictions(path: Path, frame: pd.DataFrame, run: Run) -> None:
    """Write a predictions frame with its calibrated probabilities and labels, by :func:`row_calibrations`."""
    frame = frame.reset_index(drop=True)
    parts = [outputs(own[logit_columns(run.task)].to_numpy(), run.task, calibration).set_axis(own.index)
             for own, calibration in ((frame[rows], one) for rows, one in row_calibrations(frame, run))]  # fmt: skip
    complete = pd.concat([frame, pd.concat(parts)], axis=1)
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
