"""From a run to its numbers: predictions.csv, metrics.json and report.html."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.dataset import PictureDataset
from softfree.data.readers import read_picture
from softfree.data.table import Table, read_table
from softfree.data.task import Task
from softfree.errors import ReadError, UserError
from softfree.evaluation.calibration import fit_temperature, probabilities
from softfree.evaluation.comparison import Comparison, compare
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.output import write_metrics
from softfree.evaluation.report import Compared, Report, Thumbnail, write_report
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import GroupRow, by_group
from softfree.evaluation.thresholds import choose_thresholds
from softfree.files import replacing
from softfree.inference import infer
from softfree.options import EvaluateOptions
from softfree.prediction import outputs
from softfree.runs import Operating, Run, read_cost

PREDICTIONS = "predictions.csv"
WORST = 12  # pictures of errors in a report


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by name.
        scores: what they were computed from.
        failed: reasons of pictures that could not be read, by row of the table.
        report: the page that was written.
        comparison: against another run, if asked for.
    """

    metrics: dict[str, Metric]
    scores: Scores
    failed: dict[int, str]
    report: Path
    comparison: Comparison | None = None


def open_table(run: Run, path: Path | None = None, images: Path | None = None) -> Table:
    """Read the run's own table, or another one with the same classes."""
    options = run.config["options"]
    own = path is None
    source = Path(options["table"]) if path is None else path
    table = read_table(
        source,
        label=options["label"],
        labels=options["labels"],
        positive=options["positive"],
        images=Path(options["images"]) if own and options["images"] else images,
        classes=run.task.classes,
        seed=options["seed"],
        # Another table without splits is all test.
        val_fraction=0.2 if own else 0.0,
        test_fraction=0.2 if own else 1.0,
    )
    if own and table.digest != run.config["table"]["sha256"]:
        raise UserError(f"{source} has changed since the run was trained on it; name the table to evaluate, and --out")
    return table


def predict_rows(run: Run, table: Table, *, batch: int, workers: int, progress: bool = False) -> pd.DataFrame:
    """Logits for all rows of ``table`` as in ``predictions.csv``: rows and patients by number, nothing by name."""
    dataset = PictureDataset(table.frame["file"].tolist(), None, run.preprocessing, frames=_frames(table.frame))
    logits = infer(run.model, dataset, len(run.task.classes), batch=batch, workers=workers, progress=progress)
    frame = table.frame[["row", "split", "patient"]].reset_index(drop=True)
    frame["status"] = [logits.failed[i].status if i in logits.failed else "ok" for i in range(len(frame))]
    targets = np.asarray(table.targets)
    for number, name in enumerate(run.task.classes if not run.task.exclusive else []):
        frame[f"target_{name}"] = targets[:, number]
    if run.task.exclusive:
        frame["target"] = targets
    frame[[f"logit_{name}" for name in run.task.classes]] = logits.values
    frame.attrs["reasons"] = {int(frame["row"][i]): str(error) for i, error in logits.failed.items()}
    return frame


def scores_of(frame: pd.DataFrame, run: Run) -> Scores:
    """Calibrated scores of the readable rows of a predictions frame."""
    task = run.task
    frame = frame[frame["status"] == "ok"]
    targets = frame["target"].to_numpy() if task.exclusive else frame[[f"target_{c}" for c in task.classes]].to_numpy()
    logits = frame[[f"logit_{c}" for c in task.classes]].to_numpy()
    return Scores(task, probabilities(logits, task, run.operating.temperature), targets, frame["patient"].to_numpy())


def calibrate(run: Run, validation: pd.DataFrame) -> Run:
    """Fit the temperature, then choose the thresholds, on validation rows; both are stored with the run."""
    readable = validation[validation["status"] == "ok"]
    run = replace(run, operating=Operating())
    logits = readable[[f"logit_{c}" for c in run.task.classes]].to_numpy()
    temperature = fit_temperature(logits, scores_of(readable, run).targets, run.task)
    run = replace(run, operating=Operating(temperature))
    return run.with_operating(Operating(temperature, choose_thresholds(scores_of(readable, run))))


def write_predictions(path: Path, frame: pd.DataFrame, run: Run) -> None:
    """Write a predictions frame with its calibrated probabilities and labels."""
    logits = frame[[f"logit_{c}" for c in run.task.classes]].to_numpy()
    complete = pd.concat([frame.reset_index(drop=True), outputs(logits, run.task, run.operating)], axis=1)
    with replacing(path) as temporary:
        complete.to_csv(temporary, index=False)


def evaluate(run: Run, options: EvaluateOptions) -> Evaluation:
    """Measure a run on one split of its own or another table and write the results."""
    if options.table is not None and options.out is None:
        raise UserError("another table needs --out FOLDER, so that the run keeps the results of its own")
    table = open_table(run, options.table, options.images)
    part = table.where(options.split)
    if len(part.frame) == 0:
        raise UserError(f"the table has no row in split {options.split}; it has {_splits(table)}")
    frame = _stored(run, part) if options.table is None else None
    if frame is None:
        frame = predict_rows(run, part, batch=options.batch, workers=options.workers, progress=options.progress)
    if options.out is not None:
        write_predictions(options.out / PREDICTIONS, frame, run)
    comparison = _against(run, frame, part, options) if options.against else None
    return write_results(run, table, frame, options, comparison=comparison)


def write_results(
    run: Run,
    table: Table,
    frame: pd.DataFrame,
    options: EvaluateOptions,
    *,
    comparison: Comparison | None = None,
    notice: str | None = None,
    maps: list[Thumbnail] | None = None,
    beside: dict[str, Metric] | None = None,
) -> Evaluation:
    """Measure the rows of ``frame`` and write ``metrics.json`` and ``report.html``.

    Args:
        run: the run, calibrated.
        table: the whole table, for the counts.
        frame: predictions of the split to measure.
        options: split, subgroups, bootstrap, where to write.
        comparison: with another run.
        notice: a sentence at the head of the report.
        maps: pictures of explanations.
        beside: AUROC of other set-ups, shown beside this one's.
    """
    folder = options.out or run.folder
    scores = scores_of(frame, run)
    if len(scores) == 0:
        raise UserError(
            f"none of the {len(frame)} pictures of split {options.split} could be read; see: softfree check"
        )
    thresholds = run.operating.thresholds
    metrics = measure(scores, thresholds, seed=options.seed, resamples=options.resamples)
    reasons: dict[int, str] = frame.attrs.get("reasons", {})
    cost = read_cost(run.folder)
    subgroups = {column: _subgroup(column, table, frame, scores, run, options) for column in options.by}
    report = Report(
        title=f"{run.config['model']['name']} on {Path(run.config['options']['table']).name}, {options.split} split",
        notice=notice or run.config.get("notice"),
        task=run.task,
        data=count_rows(table),
        data_notes=_notes(run, table, frame, reasons),
        cost=_cost_in_words(cost),
        metrics=metrics,
        scores=scores,
        thresholds=thresholds,
        history=read_history(run.folder),
        comparisons=_comparisons(beside, options.against, comparison, metrics),
        subgroups=subgroups,
        pictures=_worst(run, table, frame, scores) if options.pictures else [],
        maps=maps or [],
        command=run.config["command"],
        versions=run.config["versions"],
    )
    about = {
        "split": options.split,
        "task": run.task.kind,
        "classes": list(run.task.classes),
        "n": len(scores),
        "patients": len(np.unique(scores.patients)),
        "unreadable": len(frame) - len(scores),
        "cost": cost,
    }
    write_metrics(folder / "metrics.json", metrics, about)
    write_report(folder / "report.html", report)
    return Evaluation(metrics, scores, reasons, folder / "report.html", comparison)


def count_rows(table: Table) -> list[dict[str, Any]]:
    """Pictures, patients and class counts of each split."""
    rows = []
    for split in ("train", "val", "test"):
        part = table.where(split)
        row: dict[str, Any] = {
            "split": split,
            "images": len(part.frame),
            "patients": part.frame["patient"].nunique(),
        }
        for number, name in enumerate(table.task.classes):
            exclusive = table.task.exclusive
            row[name] = int((part.targets == number).sum() if exclusive else np.nansum(part.targets[:, number]))
        rows.append(row)
    return rows


def read_history(folder: Path) -> pd.DataFrame | None:
    """Loss, AUROC and rate of each epoch, joined over interrupted attempts."""
    parts = []
    for path in sorted(folder.glob("logs/csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name[8:])):
        try:
            parts.append(pd.read_csv(path).groupby("epoch", as_index=False).last())
        except (pd.errors.EmptyDataError, KeyError):  # stopped before its first epoch ended
            continue
    if not parts:
        return None
    return pd.concat(parts).groupby("epoch", as_index=False).last()


def _frames(frame: pd.DataFrame) -> list[int | None] | None:
    if "frame" not in frame:
        return None
    return [None if pd.isna(number) else int(number) for number in frame["frame"]]


def _splits(table: Table) -> str:
    counts = table.frame["split"].value_counts()
    return ", ".join(f"{count} in {name}" for name, count in counts.items())


def _stored(run: Run, part: Table) -> pd.DataFrame | None:
    """Predictions written at the end of training, when they cover exactly these rows."""
    path = run.folder / PREDICTIONS
    if not path.is_file():
        return None
    frame = pd.read_csv(path)
    frame = frame[frame["row"].isin(part.frame["row"])].reset_index(drop=True)
    same = len(frame) == len(part.frame) and set(frame["row"]) == set(part.frame["row"])
    return frame[[c for c in frame if not str(c).startswith(("p_", "raw_", "predicted"))]] if same else None


def _against(run: Run, frame: pd.DataFrame, part: Table, options: EvaluateOptions) -> Comparison:
    assert options.against is not None
    other = Run.load(options.against)
    if other.task != run.task:
        raise UserError(
            f"--against {options.against}: it predicts {', '.join(other.task.classes)}, "
            f"this run {', '.join(run.task.classes)}; compare runs of one task"
        )
    same_table = options.table is None and other.config["table"]["sha256"] == run.config["table"]["sha256"]
    rival = _stored(other, part) if same_table else None
    if rival is None:
        rival = predict_rows(other, part, batch=options.batch, workers=options.workers, progress=options.progress)
    readable = set(frame.loc[frame["status"] == "ok", "row"]) & set(rival.loc[rival["status"] == "ok", "row"])
    ours, theirs = (
        scores_of(rows[rows["row"].isin(readable)].sort_values("row"), who)
        for rows, who in ((frame, run), (rival, other))
    )
    return compare(
        ours,
        theirs,
        margin=options.margin,
        seed=options.seed,
        resamples=options.resamples,
        thresholds=(run.operating.thresholds, other.operating.thresholds),
        names=(run.folder.name, other.folder.name),
    )


def _subgroup(
    column: str, table: Table, frame: pd.DataFrame, scores: Scores, run: Run, options: EvaluateOptions
) -> list[GroupRow]:
    if column not in table.frame:
        raise UserError(f"--by {column}: no such column; the table has {', '.join(map(str, table.frame.columns))}")
    readable = frame[frame["status"] == "ok"]
    values = table.frame.set_index("row")[column].reindex(readable["row"]).reset_index(drop=True)
    return by_group(scores, values, run.operating.thresholds, seed=options.seed, resamples=options.resamples)


def _notes(run: Run, table: Table, frame: pd.DataFrame, reasons: dict[int, str]) -> list[str]:
    notes = [table.split_made or "The split is the table's own."]
    notes += run.preprocessing.in_words()
    if run.config.get("augmentation"):
        notes.append(f"Training pictures are changed at random: {run.config['augmentation']}.")
    unreadable = int((frame["status"] != "ok").sum())
    if unreadable:
        why = "; ".join(sorted(set(frame.loc[frame["status"] != "ok", "status"])))
        notes.append(f"{unreadable} of {len(frame)} pictures of this split could not be read and are left out: {why}.")
    left_out = run.config["table"].get("unreadable", 0)
    if left_out:
        notes.append(f"{left_out} training or validation pictures could not be read and were left out.")
    temperature = run.operating.temperature
    notes.append(f"Probabilities are calibrated on validation with temperature {temperature:.3g}.")
    return notes


def _cost_in_words(cost: dict[str, Any]) -> dict[str, str]:
    if not cost:
        return {}
    return {
        "Parameters": f"{cost['parameters']:,}",
        "Multiply-adds per picture": f"{cost['multiply_adds'] / 1e9:.2f} G at {cost['side']} x {cost['side']} pixels",
        "Training time": f"{cost['seconds']:.0f} s" + (" since it was resumed" if cost["resumed"] else ""),
        "Peak memory": f"{cost['peak_bytes'] / 2**30:.2f} GiB",
        "Machine": cost["machine"],
    }


def _comparisons(
    beside: dict[str, Metric] | None, against: Path | None, comparison: Comparison | None, metrics: dict[str, Metric]
) -> list[Compared]:
    rows = [Compared(name, metric) for name, metric in (beside or {}).items()]
    if comparison is not None and against is not None:
        rival = comparison.differences["auroc"]
        theirs = replace(metrics["auroc"], value=rival.b, low=np.nan, high=np.nan, reason="see the difference")
        rows.append(Compared(against.name, theirs, comparison))
    return rows


def _worst(run: Run, table: Table, frame: pd.DataFrame, scores: Scores) -> list[Thumbnail]:
    """The pictures that the model was most wrong about."""
    readable = frame[frame["status"] == "ok"].reset_index(drop=True)
    if run.task.exclusive:
        truth = scores.targets.astype(int)
        given = scores.probabilities[np.arange(len(truth)), truth]
    else:
        error = np.abs(scores.probabilities - scores.targets)
        given = 1 - np.nanmax(np.where(np.isnan(error), 0, error), axis=1)
    files = table.frame.set_index("row")["file"]
    frames = table.frame.set_index("row")["frame"] if "frame" in table.frame else None
    thumbnails = []
    for index in np.argsort(given)[:WORST]:
        row = int(readable["row"][index])
        number = None if frames is None or pd.isna(frames[row]) else int(frames[row])
        png = thumbnail(files[row], number)
        if png is not None and given[index] < 0.5:
            thumbnails.append(Thumbnail(png, f"row {row}: {_truth(run.task, scores, index)}, given {given[index]:.2f}"))
    return thumbnails


def _truth(task: Task, scores: Scores, index: int) -> str:
    if task.exclusive:
        return task.classes[int(scores.targets[index])]
    return ", ".join(n for n, t in zip(task.classes, scores.targets[index], strict=True) if t == 1) or "no finding"


def thumbnail(file: str, frame: int | None = None, side: int = 256) -> bytes | None:
    """A small PNG of a file, or None when it cannot be read."""
    from PIL import Image

    try:
        unit = read_picture(file, frame=frame).unit()
    except ReadError:
        return None
    pixels = (unit * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
