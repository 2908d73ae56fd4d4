"""Results on the terminal, and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from softfree.evaluation.comparison import Difference
from softfree.evaluation.formatting import (
    interval,
    metrics_to_json,
    number,
    p_value,
    signed,
    strict_json,
    summary_rows,
)
from softfree.evaluation.metrics import Metric
from softfree.inference.run import Run
from softfree.reporting.baseline_comparison import BaselineComparison
from softfree.reporting.evaluate import Evaluation
from softfree.reporting.run_comparison import RunComparison

_MAX_ERRORS = 10
console = Console(markup=False)  # names of classes and folders may contain brackets


def print_training(run: Run, evaluation: Evaluation | None) -> None:
    """Print the metrics of a finished run and the next steps.

    Args:
        run: The run.
        evaluation: Its evaluation; None if training had already finished.
    """
    if evaluation is not None:
        _print_split(evaluation, f"{evaluation.split} split")
    console.print(f"Report: {run.directory.report}", highlight=False, soft_wrap=True)
    console.print(f"Predict: softfree predict {run.folder} FILES", highlight=False)


def print_study(run: Run, evaluation: Evaluation, test: Evaluation | None) -> None:
    """Print the metrics of a study and the next steps.

    Args:
        run: The ensemble.
        evaluation: Its cross-validation.
        test: The ensemble on the fixed test rows, if there are any.
    """
    _print_split(evaluation, "cross-validation")
    if test is not None:
        _print_split(test, "fixed test rows, ensemble")
        console.print(f"Report of the test rows: {test.report}", highlight=False, soft_wrap=True)
    console.print(f"Report: {evaluation.report}", highlight=False, soft_wrap=True)
    console.print(f"Predict with the ensemble: softfree predict {run.folder} FILES", highlight=False)


def _print_split(evaluation: Evaluation, what: str) -> None:
    scores = evaluation.scores
    patients = len(np.unique(scores.patients))
    console.print(_metrics_table(evaluation.metrics, f"{what}: {len(scores)} samples of {patients} patients"))
    _print_baselines(evaluation.baselines)
    _print_coverage(evaluation)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print metrics, comparison and unreadable images."""
    console.print(_metrics_table(evaluation.metrics, f"{len(evaluation.scores)} samples"))
    _print_baselines(evaluation.baselines)
    _print_coverage(evaluation)
    if evaluation.left_out:
        console.print(
            f"{evaluation.left_out} rows left out: the run was trained on their files or patients", highlight=False
        )
    if evaluation.comparison is not None:
        console.print(evaluation.comparison.verdict, highlight=False)
    for row, reason in list(evaluation.failed.items())[:_MAX_ERRORS]:
        console.print(f"row {row} left out: {reason}", highlight=False, markup=False, soft_wrap=True)
    if len(evaluation.failed) > _MAX_ERRORS:
        console.print(
            f"and {len(evaluation.failed) - _MAX_ERRORS} more rows left out; see: softfree check", highlight=False
        )
    console.print(f"Report: {evaluation.report}", highlight=False, soft_wrap=True)


def evaluation_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return what :func:`print_evaluation` prints, for JSON."""
    return {
        "n": len(evaluation.scores),
        "left_out_as_seen": evaluation.left_out,
        "metrics": metrics_to_json(evaluation.metrics),
        "baselines": evaluation.baselines.to_dict(),
        "comparison": _comparison_to_dict(evaluation),
        "conformal": None if evaluation.coverage is None else strict_json(evaluation.coverage.to_dict()),
        "failed": {str(row): reason for row, reason in evaluation.failed.items()},
        "report": str(evaluation.report),
    }


def print_run_comparison(comparison: RunComparison) -> None:
    """Print runs with their differences from the reference, and what the numbers are."""
    patients = f" of {comparison.patients} patients" if comparison.patients < comparison.n else ""
    table = Table(title=f"{comparison.table}: {comparison.n} samples{patients}", title_justify="left")
    for heading in ("run", "AUROC", "difference", "p", "p, Holm"):
        table.add_column(heading)
    for run in comparison.runs:
        row = [f"{run.name}: {run.evaluated}", _with_interval(run.auroc), "reference", "", ""]
        if run.difference is not None:
            difference = f"{signed(run.difference.value)} ({interval(run.difference)})"
            row[2:] = [difference, p_value(run.difference.p), p_value(run.p_holm)]
        table.add_row(*row)
    console.print(table)
    for run in comparison.runs:
        if run.comparison is not None and run.comparison.margin is not None:
            console.print(run.comparison.verdict, highlight=False, soft_wrap=True)
        if run.folds is not None:
            mean = f"mean difference {signed(run.folds.mean)} ({interval(run.folds)}), p {p_value(run.folds.p)}"
            count = len(run.folds.differences)
            console.print(f"{run.name} over {count} folds: {mean}", highlight=False, soft_wrap=True)
    for note in comparison.notes:
        console.print(note, highlight=False, soft_wrap=True)


def print_models(pattern: str, *, as_json: bool = False) -> None:
    """Print named models with their sizes."""
    import torch

    from softfree.models import create_model, list_models

    sizes = {}
    for name in (name for name in list_models() if fnmatch(name, pattern)):
        with torch.device("meta"):
            sizes[name] = sum(parameter.numel() for parameter in create_model(name).parameters())
    if as_json:
        print(json.dumps([{"name": name, "parameters": size} for name, size in sizes.items()], indent=2))
        return
    table = Table("model", "parameters")
    table.columns[1].justify = "right"
    for name, size in sizes.items():
        table.add_row(name, f"{size / 1e6:.1f} M")
    console.print(table)


def _print_baselines(baselines: BaselineComparison) -> None:
    """Print the AUROC, or mean absolute error, of simpler models on the same samples."""
    title = {"auroc": "AUROC", "mae": "mean absolute error"}[baselines.metric]
    for row in baselines.rows:
        assert row.comparison is not None
        difference = _with_interval(row.comparison.differences[baselines.metric])
        text = f"{row.title}: {title} {_with_interval(row.auroc)}; model minus this: {difference}"
        console.print(text, highlight=False, soft_wrap=True)
    for sentence in baselines.warnings:
        console.print(sentence, style="yellow", highlight=False, soft_wrap=True)
    for sentence in baselines.notes:
        console.print(sentence, highlight=False, soft_wrap=True)


def _print_coverage(evaluation: Evaluation) -> None:
    """Print how conformal sets work on these samples."""
    if evaluation.coverage is not None:
        console.print(" ".join(evaluation.coverage.sentences()), highlight=False, soft_wrap=True)


def _with_interval(metric: Metric | Difference) -> str:
    value = number(metric.value)
    return value if math.isnan(metric.low) else f"{value} ({interval(metric)})"


def _metrics_table(metrics: dict[str, Metric], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "left"), ("samples", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in summary_rows(metrics):
        table.add_row(row.name, row.value, row.interval, row.samples)
    return table


def _comparison_to_dict(evaluation: Evaluation) -> dict[str, Any] | None:
    if evaluation.comparison is None:
        return None
    comparison = asdict(evaluation.comparison)
    for difference in comparison["differences"].values():
        for key, value in difference.items():
            if isinstance(value, float) and math.isnan(value):
                difference[key] = None
    return comparison
