"""Predictions, metrics and report of a probe, and what is printed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from softfree.core.environment import versions
from softfree.embeddings.feature_folder import FeatureFolder
from softfree.embeddings.options import ProbeOptions
from softfree.embeddings.probe import Probe
from softfree.evaluation.formatting import metrics_to_json, summary_rows, write_metrics
from softfree.evaluation.number_report import write_number_report
from softfree.evaluation.report import Report, write_report
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import by_fold, describe_folds
from softfree.reporting.facts import count_rows
from softfree.reporting.scoring import FOLD, THRESHOLD, target_columns
from softfree_runtime.core.files import replacing

WARNING = (
    "If the encoder was trained with labels of these images, the scores are optimistic; name it with --encoder to leave"
    " them out."
)


def write_probe(out: Path, result: Probe, options: ProbeOptions, features: FeatureFolder) -> None:
    """Write ``predictions.csv``, ``metrics.json`` and ``report.html``: patients by number, no names of files."""
    with replacing(out / "predictions.csv") as temporary:
        _predictions(result).to_csv(temporary, index=False)
    write_metrics(out / "metrics.json", result.metrics, _about(result, options, features))
    report = _report(result, options, features)
    (write_number_report if result.table.task.numeric else write_report)(out / "report.html", report)


def _about(result: Probe, options: ProbeOptions, features: FeatureFolder) -> dict[str, Any]:
    return {
        "model_digest": features.model,
        "features": features.width,
        "method": options.method,
        "chosen": result.chosen,
        "folds": result.folds.made,
        "task": result.table.task.kind,
        "classes": list(result.table.task.classes),
        "n": len(result.scores),
        "patients": int(result.table.frame["patient"].nunique()),
        "notes": list(result.notes),
    }


def probe_to_dict(result: Probe, options: ProbeOptions) -> dict[str, Any]:
    """Return what :func:`print_probe` prints, for JSON."""
    return {
        "n": len(result.scores),
        "chosen": result.chosen,
        "notes": list(result.notes),
        "metrics": metrics_to_json(result.metrics),
        "report": str(options.out / "report.html"),
    }


def print_probe(result: Probe, options: ProbeOptions) -> None:
    """Print the metrics."""
    console = Console(markup=False)
    patients = result.table.frame["patient"].nunique()
    names = {"logistic": "ridge regression" if result.table.task.numeric else "logistic regression", "knn": "kNN"}
    title = f"{names[options.method]} on frozen features: {len(result.scores)} images of {patients} patients"
    table = Table("metric", "value", "95 % interval", "samples", title=title, title_justify="left")
    for row in summary_rows(result.metrics):
        table.add_row(row.name, row.value, row.interval, row.samples)
    console.print(table)
    console.print(f"Report: {options.out / 'report.html'}", highlight=False, soft_wrap=True)
    if options.encoder is None:
        print(f"softfree: note: {WARNING}", file=sys.stderr)


def _predictions(result: Probe) -> pd.DataFrame:
    """Return the rows by number, with fold, truth, probabilities and thresholds."""
    table, task = result.table, result.table.task
    frame = table.frame[["row", "patient"]].reset_index(drop=True)
    frame[FOLD] = [result.folds.names[number] for number in result.folds.numbers[0]]
    frame[target_columns(task)] = np.asarray(table.targets).reshape(len(frame), -1)
    if not isinstance(result.scores, Scores):
        return frame.assign(value=result.scores.predicted)
    frame[[f"p_{name}" for name in task.classes]] = result.scores.probabilities
    for name, values in (result.scores.thresholds or {}).items():
        frame[f"{THRESHOLD}{name}"] = values
    return frame


def _report(result: Probe, options: ProbeOptions, features: FeatureFolder) -> Report:
    table = replace(result.table, frame=result.table.frame.assign(split="val"))
    names = [result.folds.names[number] for number in result.folds.numbers[0]]
    folds = by_fold(
        result.scores, names, result.thresholds or {}, seed=options.seed, num_bootstrap=options.num_bootstrap
    )
    what = "The number of neighbors" if options.method == "knn" else "The regularization"
    notes = [
        f"{result.folds.made}.".capitalize(),
        f"{features.width} features of each image, by an encoder that was not trained further.",
        f"{what} was chosen within the training patients of each fold: {_few(result.chosen)}.",
        *result.notes,
    ]
    if options.encoder is None:
        notes.append(WARNING)
    return Report(
        title="Probe of frozen features",
        notice=None,
        task=table.task,
        data=count_rows(table, is_study=True),
        data_notes=notes,
        cost={"Features": str(features.width)},
        metrics=result.metrics,
        scores=result.scores,
        thresholds=result.thresholds or {},
        command=f"softfree probe FEATURES TABLE --method {options.method} --folds {options.folds}",
        versions=versions(),
        folds=folds,
        fold_note=describe_folds(folds),
    )


def _few(values: list[float], most: int = 10) -> str:
    return ", ".join(f"{value:g}" for value in values[:most]) + (", ..." if len(values) > most else "")
