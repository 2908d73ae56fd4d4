"""From scores to ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.table import Table
from softfree.errors import UserError
from softfree.evaluation.comparison import Comparison, compare
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.output import write_metrics
from softfree.evaluation.report import Compared, Report, Thumbnail, write_report
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import GroupRow, by_group
from softfree.explain.reported import report_maps
from softfree.options import EvaluateOptions
from softfree.runs import Run, read_cost
from softfree.scoring import PREDICTIONS, open_table, predict_rows, scores_of, stored_rows, write_predictions
from softfree.thumbnails import worst_errors


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


def evaluate(run: Run, options: EvaluateOptions) -> Evaluation:
    """Measure a run on one split of its own or another table and write the results."""
    if options.table is not None and options.out is None:
        raise UserError("another table needs --out FOLDER, so that the run keeps the results of its own")
    table = open_table(run, options.table, options.images)
    part = table.where(options.split)
    if len(part.frame) == 0:
        raise UserError(f"the table has no row in split {options.split}; it has {_splits(table)}")
    frame = stored_rows(run, part) if options.table is None else None
    if frame is None:
        frame = _predict(run, part, options)
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
        maps: pictures of explanations, instead of those that ``options.maps`` asks for.
        beside: AUROC of other set-ups, shown beside this one's.
    """
    folder = options.out or run.folder
    scores = scores_of(frame, run)
    if len(scores) == 0:
        raise UserError(
            f"none of the {len(frame)} pictures of split {options.split} could be read; see: softfree check"
        )
    thresholds = run.operating.thresholds
    shown, notes = (maps, []) if maps else report_maps(run, table, frame, scores, options)
    metrics = measure(scores, thresholds, seed=options.seed, resamples=options.resamples)
    unread = frame[frame["status"] != "ok"]
    reasons = {int(row): str(reason) for row, reason in zip(unread["row"], unread["reason"], strict=True)}
    cost = read_cost(run.folder)
    subgroups = {column: _subgroup(column, table, frame, scores, run, options) for column in options.by}
    report = Report(
        title=f"{run.config['model']['name']} on {Path(run.config['options']['table']).name}, {options.split} split",
        notice=notice or run.config.get("notice"),
        task=run.task,
        data=count_rows(table),
        data_notes=_notes(run, table, frame),
        cost=_cost_in_words(cost),
        metrics=metrics,
        scores=scores,
        thresholds=thresholds,
        history=read_history(run.folder),
        comparisons=_comparisons(beside, options.against, comparison, metrics),
        subgroups=subgroups,
        pictures=worst_errors(run, table, frame, scores) if options.pictures else [],
        maps=shown,
        map_notes=notes,
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


def _splits(table: Table) -> str:
    counts = table.frame["split"].value_counts()
    return ", ".join(f"{count} in {name}" for name, count in counts.items())


def _against(run: Run, frame: pd.DataFrame, part: Table, options: EvaluateOptions) -> Comparison:
    assert options.against is not None
    other = Run.load(options.against)
    if other.task != run.task:
        raise UserError(
            f"--against {options.against}: it predicts {', '.join(other.task.classes)}, "
            f"this run {', '.join(run.task.classes)}; compare runs of one task"
        )
    made = options.table is None and part.split_made is not None
    if made and other.config["options"]["seed"] != run.config["options"]["seed"]:
        raise UserError(
            f"--against {options.against}: the two runs split the table with different seeds, so that one has learnt "
            "what the other is tested on; give the table a column split, or train both with one --seed"
        )
    same_table = options.table is None and other.config["table"]["sha256"] == run.config["table"]["sha256"]
    rival = stored_rows(other, part) if same_table else None
    if rival is None:
        rival = _predict(other, part, options)
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
    known = [str(name) for name in table.frame.columns if name != "row"]
    if column not in known:
        raise UserError(f"--by {column}: no such column; the table has {', '.join(known)}")
    readable = frame[frame["status"] == "ok"]
    values = table.frame.set_index("row")[column].reindex(readable["row"]).reset_index(drop=True)
    return by_group(scores, values, run.operating.thresholds, seed=options.seed, resamples=options.resamples)


def _predict(run: Run, part: Table, options: EvaluateOptions) -> pd.DataFrame:
    how: dict[str, Any] = {"batch": options.batch, "workers": options.workers, "progress": options.progress}
    return predict_rows(run, part, **how, stream=options)


def _notes(run: Run, table: Table, frame: pd.DataFrame) -> list[str]:
    notes = [table.split_made or "The split is the table's own."]
    notes += run.preprocessing.in_words()
    if run.config.get("augmentation"):
        notes.append(f"Training samples are changed at random: {run.config['augmentation']}.")
    unreadable = int((frame["status"] != "ok").sum())
    if unreadable:
        why = "; ".join(sorted(set(frame.loc[frame["status"] != "ok", "status"])))
        notes.append(f"{unreadable} of {len(frame)} samples of this split could not be read and are left out: {why}.")
    left_out = run.config["table"].get("unreadable", 0)
    if left_out:
        notes.append(f"{left_out} training or validation samples could not be read and were left out.")
    temperature = run.operating.temperature
    notes.append(f"Probabilities are calibrated on validation with temperature {temperature:.3g}.")
    return notes


def _cost_in_words(cost: dict[str, Any]) -> dict[str, str]:
    if not cost:
        return {}
    shape = cost.get("shape", [cost.get("side")] * 2)  # runs of before volumes have a side
    return {
        "Parameters": f"{cost['parameters']:,}",
        "Multiply-adds per sample": f"{cost['multiply_adds'] / 1e9:.2f} G at {' x '.join(map(str, shape))}",
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
