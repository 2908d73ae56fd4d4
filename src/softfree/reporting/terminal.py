"""Results on the terminal."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

from rich.console import Console
from rich.table import Table

from softfree.evaluation.formatting import metrics_to_json, number, summary_rows
from softfree.evaluation.metrics import Metric
from softfree.inference.run import Run
from softfree.reporting.evaluate import Evaluation
from softfree_lab.studies.confound import SizeStudy

_SHOWN = 10
console = Console(markup=False)  # names of classes and folders may hold brackets


def print_run(run: Run) -> None:
    """What a finished training leaves, and what to do with it."""
    measured = run.directory.read_metrics()
    metrics = {name: _from_json(value) for name, value in measured["metrics"].items()}
    counted = f"{measured['split']} split: {measured['n']} images of {measured['patients']} patients"
    console.print(_metrics_table(metrics, counted))
    _print_simpler(measured.get("simpler"))
    console.print(f"Report: {run.directory.report}", highlight=False)
    console.print(f"Predict: softfree predict {run.folder} FILES", highlight=False)


def print_evaluation(result: Evaluation) -> None:
    """Metrics, comparison and unreadable images."""
    console.print(_metrics_table(result.metrics, f"{len(result.scores)} samples"))
    _print_simpler(result.simpler.to_dict())
    if result.left_out:
        console.print(
            f"{result.left_out} rows left out: the run was trained on their files or patients", highlight=False
        )
    if result.comparison is not None:
        console.print(result.comparison.verdict, highlight=False)
    for row, reason in list(result.failed.items())[:_SHOWN]:
        console.print(f"row {row} left out: {reason}", highlight=False, markup=False)
    if len(result.failed) > _SHOWN:
        console.print(f"and {len(result.failed) - _SHOWN} more rows left out; see: softfree check", highlight=False)
    console.print(f"Report: {result.report}", highlight=False)


def evaluation_to_dict(result: Evaluation) -> dict[str, Any]:
    """The same for programs."""
    return {
        "n": len(result.scores),
        "left_out_as_seen": result.left_out,
        "metrics": metrics_to_json(result.metrics),
        "simpler": result.simpler.to_dict(),
        "comparison": _comparison(result),
        "failed": {str(row): reason for row, reason in result.failed.items()},
        "report": str(result.report),
    }


def _print_simpler(found: dict[str, Any] | None) -> None:
    """What simpler models reach on the same samples."""
    if not found:
        return
    for name, model in found["models"].items():
        auroc, apart = _with_interval(model), _with_interval(model["model_minus_it"])
        console.print(f"Regression on {name}: AUROC {auroc}; model minus it {apart}", highlight=False, soft_wrap=True)
    for sentence in found["warnings"]:
        console.print(sentence, style="yellow", highlight=False, soft_wrap=True)
    for sentence in found["notes"]:
        console.print(sentence, highlight=False, soft_wrap=True)


def _with_interval(found: dict[str, Any]) -> str:
    value, low, high = (number(math.nan if found[side] is None else found[side]) for side in ("value", "low", "high"))
    return value if found["low"] is None else f"{value} ({low} to {high})"


def print_sizes(found: SizeStudy) -> None:
    """What a study of sizes found."""
    table = Table(title=f"{found.n} test images", title_justify="left")
    for name in found.rows.columns:
        table.add_column(str(name), justify="left" if name == "feature" else "right")
    for row in found.rows.itertuples(index=False):
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row))
    console.print(table)
    console.print(f"The model's AUROC: {found.auroc:.3f} on the images as they are,", highlight=False)
    console.print(f"{found.auroc_equal:.3f} on center squares of {found.side} x {found.side} pixels.", highlight=False)


def print_models(pattern: str, *, as_json: bool = False) -> None:
    """Named models with their sizes."""
    import torch

    from softfree.models import create_model, list_models

    names = [name for name in list_models() if fnmatch(name, pattern)]
    sizes = {}
    for name in names:
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in create_model(name).parameters())
    if as_json:
        print(json.dumps([{"name": name, "parameters": size} for name, size in sizes.items()], indent=2))
        return
    table = Table("model", "parameters")
    table.columns[1].justify = "right"
    for name, size in sizes.items():
        table.add_row(name, f"{size / 1e6:.1f} M")
    console.print(table)


def _from_json(value: dict[str, Any]) -> Metric:
    """The other way of ``metrics_to_json``."""
    numbers = {name: math.nan for name in ("value", "low", "high") if value[name] is None}
    return Metric(**(value | numbers))


def _metrics_table(metrics: dict[str, Metric], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "left"), ("samples", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in summary_rows(metrics):
        table.add_row(row.name, row.value, row.interval, row.samples)
    return table


def _comparison(result: Evaluation) -> dict[str, Any] | None:
    if result.comparison is None:
        return None
    found = asdict(result.comparison)
    for difference in found["differences"].values():
        for key, value in difference.items():
            if isinstance(value, float) and math.isnan(value):
                difference[key] = None
    return found
