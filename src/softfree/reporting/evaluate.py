"""From scores to ``metrics.json`` and ``report.html``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.core.options import Split
from softfree.core.ranges import check_ranges
from softfree.data.table import Table, may_identify
from softfree.evaluation.answers import Answers
from softfree.evaluation.comparison import Comparison, compare
from softfree.evaluation.conformal import Coverage
from softfree.evaluation.formatting import write_metrics
from softfree.evaluation.metric_specs import check_prevalence
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.number_report import write_number_report
from softfree.evaluation.report import Compared, Report, Thumbnail, write_report
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import GroupRow, by_fold, by_group, describe_folds
from softfree.evaluation.survival_report import write_survival_report
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.baseline_comparison import BaselineComparison, compare_with_baselines
from softfree.reporting.baselines import BaselinePredictions, read_baselines
from softfree.reporting.coverage import coverage_by_group, coverage_of
from softfree.reporting.facts import report_facts
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.reader_study import restore_reader_study
from softfree.reporting.saliency_maps import report_maps
from softfree.reporting.scoring import (
    FOLD,
    answers_of,
    open_table,
    predict_rows,
    stored_rows,
    without_seen,
    write_predictions,
)
from softfree.reporting.suspects import find_suspects, suspects_in_words
from softfree.reporting.thumbnails import worst_errors
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import refuse_numbers


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        metrics: Metrics by name.
        scores: Scores that the metrics were computed from.
        failed: Why images could not be read, by table row.
        report: Path of the report.
        comparison: Comparison with another run, if requested.
        left_out: Number of rows left out because the run was trained on them.
        baselines: Simpler models on the same samples.
        split: The split that was evaluated.
        coverage: How conformal sets work on these samples; None for runs without them.
    """

    metrics: dict[str, Metric]
    scores: Answers
    failed: dict[int, str]
    report: Path
    comparison: Comparison | None = None
    left_out: int = 0
    baselines: BaselineComparison = field(default_factory=BaselineComparison)
    split: str = "test"
    coverage: Coverage | None = None


def evaluate(run: Run, options: EvaluateOptions) -> Evaluation:
    """Evaluate a run on one split of its own table or another one, and write the results."""
    check_evaluation(run, options)
    columns = {"label": options.label, "labels": options.labels, "event": options.event}
    table = open_table(run, options.table, options.image_root, **columns)  # type: ignore[arg-type]
    left_out = 0
    if not options.include_training:
        num_rows = len(table.frame)
        table, left_out = without_seen(run, table)
        if left_out == num_rows:
            raise UserError(
                f"all {left_out} rows of {options.table} have files or patients that the run was trained on; use"
                " other images, or evaluate these with --include-training, which says nothing about new patients"
            )
    options = replace(options, split=options.split or _default_split(run, table))
    rows = table.where(options.split or "test")
    if len(rows.frame) == 0:
        raise UserError(f"the table has no row in split {options.split}; it has {_splits(table)}")
    frame = _predictions(run, rows, options, stored=options.table is None)
    if run.members and options.split == "test" and options.out is None:
        options = replace(options, out=run.directory.test)  # the report of the folder is that of the cross-validation
    if options.out is not None:
        write_predictions(RunDirectory(options.out).predictions, frame, run)
    comparison = _compare_with(run, frame, rows, options) if options.compare_with else None
    return write_results(run, table, frame, options, comparison=comparison, left_out=left_out)


def check_evaluation(run: Run, options: EvaluateOptions) -> None:
    """Refuse options that do not fit a run.

    Raises:
        UserError: Columns or images of a table that is not named, another table without a folder, columns that may
            identify people, numbers out of range, or what the task does not have.
    """
    check_ranges(options)
    for name in ("image_root", "label", "labels", "event"):
        value = getattr(options, name)
        if options.table is None and value is not None:
            written = f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
            given = f"--{name.replace('_', '-')} {shlex.quote(written)}"
            raise UserError(
                f"{given} describes a table, and the run's own is read as in training; name a table: softfree evaluate"
                f" RUN TABLE {given} --out FOLDER"
            )
    if options.table is not None and options.out is None:
        raise UserError("another table needs --out FOLDER, so that the run keeps its own results")
    refuse_identifiers(options)
    if options.prevalence is not None:
        refuse_numbers(run.task, "--prevalence")
        check_prevalence(run.task, options.prevalence)
    for name in ("maps", "show_images"):
        if getattr(options, name):
            refuse_numbers(run.task, f"--{name.replace('_', '-')}")


def _default_split(run: Run, table: Table) -> Split:
    """Return the split to evaluate: test if there are such rows, else val; of a study its cross-validation."""
    is_own = bool(run.members) and table.digest == run.table_digest
    return "test" if len(table.where("test").frame) and not is_own else "val"


def refuse_identifiers(options: EvaluateOptions) -> None:
    """Refuse columns whose values may identify a person in the report.

    Raises:
        UserError: A column of ids, names, birth dates or the like, unless the user allows it.
    """
    if options.allow_identifiers:
        return
    for column in options.subgroups:
        if may_identify(column):
            raise UserError(
                f"--subgroups {column}: its values may identify people and would appear in the report; choose another"
                " column, or allow it with --allow-identifiers"
            )


def write_results(
    run: Run,
    table: Table,
    frame: pd.DataFrame,
    options: EvaluateOptions,
    *,
    comparison: Comparison | None = None,
    maps: list[Thumbnail] | None = None,
    other_aurocs: dict[str, Metric] | None = None,
    left_out: int = 0,
) -> Evaluation:
    """Compute the metrics of ``frame`` and write ``metrics.json`` and ``report.html``.

    Args:
        run: The calibrated run.
        table: The whole table, for the counts.
        frame: Predictions of the split to evaluate.
        options: Split, subgroups, bootstrap, output folder.
        comparison: Comparison with another run.
        maps: Saliency maps to show instead of ``options.maps`` computed ones.
        other_aurocs: AUROCs of other setups, by name, shown next to this one.
        left_out: Number of rows left out because the run was trained on them.
    """
    directory = RunDirectory(options.out or run.folder)
    evaluated_table = options.table or run.table_path
    scores = _readable_scores(run, frame, options)
    map_images: list[Thumbnail] = maps or []
    map_notes: list[str] = []
    if maps is None and isinstance(scores, Scores):
        map_images, map_notes = report_maps(run, table, frame, scores, options)
    seed, num_bootstrap = options.seed, options.num_bootstrap
    metrics = measure(
        scores, run.calibration.thresholds, seed=seed, num_bootstrap=num_bootstrap, prevalence=options.prevalence
    )
    baselines = compare_with_baselines(run, frame, scores, metrics, seed=seed, num_bootstrap=num_bootstrap)
    subgroups = {column: _subgroup(column, table, frame, scores, run, options) for column in options.subgroups}
    coverage, group_coverage = None, {}
    if isinstance(scores, Scores):
        coverage = coverage_of(run, frame, scores)
        group_coverage = {name: coverage_by_group(run, frame, scores, table, name) for name in options.subgroups}
    suspects = _suspects(frame, scores, directory)
    report = Report(
        title=f"{run.config['model']['name']} on {evaluated_table.name}, {_evaluated_in_words(run, frame, options)}",
        metrics=metrics,
        scores=scores,
        comparisons=_comparisons(other_aurocs, options.compare_with, comparison, metrics),
        baselines=baselines.rows,
        baseline_warnings=baselines.warnings,
        baseline_notes=baselines.notes,
        subgroups=subgroups,
        coverage=coverage,
        group_coverage={name: {g: row.all for g, row in rows.items()} for name, rows in group_coverage.items()},
        images=worst_errors(run, table, frame, scores) if options.show_images and isinstance(scores, Scores) else [],
        maps=map_images,
        map_notes=map_notes,
        **_folds(frame, scores, run, options),
        **suspects,
        **_facts(run, table, frame, options, left_out),
    )
    about = _about(run, frame, scores, options) | {"left_out_as_seen": left_out, "baselines": baselines.to_dict()}
    if coverage is not None:
        groups = {name: {group: row.to_dict() for group, row in rows.items()} for name, rows in group_coverage.items()}
        about["conformal"] = coverage.to_dict() | {"groups": groups}
    if suspects.get("suspects") is not None:
        about["suspect_labels"] = len(suspects["suspects"])
    write_metrics(directory.metrics, metrics, about)
    writers = {"regression": write_number_report, "survival": write_survival_report}
    writers.get(run.task.kind, write_report)(directory.report, report)
    restore_reader_study(directory)
    return Evaluation(
        metrics,
        scores,
        _reasons(frame),
        directory.report,
        comparison,
        left_out,
        baselines,
        options.split or "test",
        coverage,
    )


def _facts(run: Run, table: Table, frame: pd.DataFrame, options: EvaluateOptions, left_out: int) -> dict[str, Any]:
    """Return the facts of :func:`report_facts`, with a note on rows that the run was trained on."""
    facts = report_facts(run, table, frame)
    if left_out:
        facts["data_notes"].insert(0, f"{left_out} rows are left out: the run was trained on their files or patients.")
    if options.tta > 1:
        views = f"the sample itself and {options.tta - 1} augmented"
        facts["data_notes"].insert(0, f"Each prediction is the mean over {options.tta} views: {views}.")
    if options.include_training and options.table is not None:
        facts["data_notes"].insert(0, "Rows that the run was trained on are included, as requested.")
    return facts


def _evaluated_in_words(run: Run, frame: pd.DataFrame, options: EvaluateOptions) -> str:
    if FOLD in frame:
        return f"cross-validation with {frame[FOLD].nunique()} folds"
    return f"{options.split} split" + (f", ensemble of {len(run.members)}" if run.members else "")


def _folds(frame: pd.DataFrame, scores: Answers, run: Run, options: EvaluateOptions) -> dict[str, Any]:
    """Measure each fold of a cross-validation on its own."""
    if FOLD not in frame:
        return {}
    folds = frame.loc[frame["status"] == "ok", FOLD].astype(str).tolist()
    thresholds = run.calibration.thresholds
    rows = by_fold(scores, folds, thresholds, seed=options.seed, num_bootstrap=options.num_bootstrap)
    return {"folds": rows, "fold_note": describe_folds(rows)}


def _suspects(frame: pd.DataFrame, scores: Answers, directory: RunDirectory) -> dict[str, Any]:
    """Look for wrong labels in a cross-validation, and write their rows; numbers and times are not judged."""
    if FOLD not in frame or not isinstance(scores, Scores):
        return {}
    readable = frame[frame["status"] == "ok"]
    suspects = find_suspects(scores, readable["row"].to_numpy(), readable[FOLD].to_numpy())
    if suspects is not None:
        directory.write_suspects(suspects)
    return {"suspects": suspects, "suspect_note": suspects_in_words(suspects, scores)}


def _readable_scores(run: Run, frame: pd.DataFrame, options: EvaluateOptions) -> Answers:
    scores = answers_of(frame, run)
    if len(scores) == 0:
        raise UserError(f"none of the {len(frame)} samples of split {options.split} could be read; see: softfree check")
    return scores


def _reasons(frame: pd.DataFrame) -> dict[int, str]:
    """Return why images could not be read, by table row."""
    failed = frame[frame["status"] != "ok"]
    return {int(row): str(reason) for row, reason in zip(failed["row"], failed["reason"], strict=True)}


def _about(run: Run, frame: pd.DataFrame, scores: Answers, options: EvaluateOptions) -> dict[str, Any]:
    """Return the entries of ``metrics.json`` besides the metrics."""
    return {
        "split": options.split,
        "task": run.task.kind,
        "classes": list(run.task.classes),
        "n": len(scores),
        "patients": len(np.unique(scores.patients)),
        "unreadable": len(frame) - len(scores),
        "cost": run.directory.read_cost(),
    }


def _splits(table: Table) -> str:
    counts = table.frame["split"].value_counts()
    return ", ".join(f"{count} in {name}" for name, count in counts.items())


def _compare_with(run: Run, frame: pd.DataFrame, table: Table, options: EvaluateOptions) -> Comparison:
    assert options.compare_with is not None
    other = Run.load(options.compare_with)
    if replace(other.task, cuts=()) != replace(run.task, cuts=()):
        raise UserError(
            f"--compare-with {options.compare_with}: it predicts {', '.join(other.task.classes)}, "
            f"this run {', '.join(run.task.classes)}; compare runs of one task"
        )
    # Of the same table, an ensemble has predictions by the members that were not trained on a row.
    held_out = bool(other.members) and (other.table_digest != table.digest or options.split != "val")
    if trained := other.directory.trained_rows(table.keys, held_out=held_out):
        raise UserError(
            f"--compare-with {options.compare_with}: that run was trained on {trained} of the {len(table.frame)} rows;"
            " give the table a split column, or train one run with --split-from the other"
        )
    same_table = options.table is None and other.table_digest == run.table_digest
    other_frame = _predictions(other, table, options, stored=same_table)
    readable = set(frame.loc[frame["status"] == "ok", "row"]) & set(
        other_frame.loc[other_frame["status"] == "ok", "row"]
    )
    scores, other_scores = (
        answers_of(rows[rows["row"].isin(readable)].sort_values("row"), which)
        for rows, which in ((frame, run), (other_frame, other))
    )
    return compare(
        scores,
        other_scores,
        margin=options.margin,
        seed=options.seed,
        num_bootstrap=options.num_bootstrap,
        thresholds=(run.calibration.thresholds, other.calibration.thresholds),
        names=(run.folder.name, other.folder.name),
    )


def _subgroup(
    column: str, table: Table, frame: pd.DataFrame, scores: Answers, run: Run, options: EvaluateOptions
) -> list[GroupRow]:
    known = [str(name) for name in table.frame.columns if name != "row"]
    if column not in known:
        raise UserError(f"--subgroups {column}: no such column; the table has {', '.join(known)}")
    readable = frame[frame["status"] == "ok"]
    values = table.frame.set_index("row")[column].reindex(readable["row"]).reset_index(drop=True)
    return by_group(scores, values, run.calibration.thresholds, seed=options.seed, num_bootstrap=options.num_bootstrap)


def _predictions(run: Run, table: Table, options: EvaluateOptions, *, stored: bool) -> pd.DataFrame:
    """Use the float32 predictions that training stored, if they cover these rows; otherwise predict."""
    # An ensemble was trained on the rows of its cross-validation: it must not predict them.
    held_out = bool(run.members) and options.split == "val" and table.digest == run.table_digest
    if held_out and options.tta > 1:
        raise UserError(
            f"--tta {options.tta}: held-out rows of a study have the predictions of its members; try it on"
            " a member, or on other rows"
        )
    as_stored = stored and options.precision == "fp32" and options.tta == 1
    frame = stored_rows(run, table) if held_out or as_stored else None
    if frame is not None:
        return frame
    if held_out:
        raise UserError(
            f"the predictions of {run.folder} for held-out rows are missing or were changed: make them again with"
            " softfree auto"
        )
    fitted = read_baselines(run.directory.baselines)
    baselines = None if fitted is None else BaselinePredictions(fitted, run.task, run.preprocessing, len(table.frame))
    return predict_rows(run, table, options, baselines)


def _comparisons(
    other_aurocs: dict[str, Metric] | None,
    other_run: Path | None,
    comparison: Comparison | None,
    metrics: dict[str, Metric],
) -> list[Compared]:
    rows = [Compared(name, metric) for name, metric in (other_aurocs or {}).items()]
    if comparison is not None and other_run is not None:
        main = next(name for name in ("auroc", "mae", "c_index") if name in comparison.differences)
        value = comparison.differences[main].b
        other = replace(metrics[main], value=value, low=np.nan, high=np.nan, reason="see the difference")
        rows.append(Compared(other_run.name, other, comparison))
    return rows
