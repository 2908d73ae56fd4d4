"""The files of a comparison of runs: a table, JSON and a page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.evaluation import plots
from softfree.evaluation.formatting import interval, name_of, number, p_value, signed
from softfree.evaluation.metrics import lower_is_better
from softfree.evaluation.page import Cell, Drawing, Grid, Page, Section, write_page
from softfree.reporting.run_comparison import ComparedRun, RunComparison
from softfree_runtime.core.files import replacing, write_atomically


def write_comparison(folder: Path, comparison: RunComparison) -> None:
    """Write ``comparison.csv``, ``comparison.json`` and ``comparison.html``."""
    content = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(folder / "comparison.csv") as temporary:
        pd.DataFrame([_row(run, comparison.metric) for run in comparison.runs]).to_csv(temporary, index=False)
    write_atomically(folder / "comparison.json", content + "\n")
    write_page(folder / "comparison.html", _page(comparison))


def _row(run: ComparedRun, metric: str) -> dict[str, Any]:
    row = {"run": run.name, "evaluated": run.evaluated, "n": run.auroc.n}
    row |= {metric: run.auroc.value, f"{metric}_low": run.auroc.low, f"{metric}_high": run.auroc.high}
    difference = run.difference
    for name, key in (("difference", "value"), ("difference_low", "low"), ("difference_high", "high"), ("p", "p")):
        row[name] = math.nan if difference is None else getattr(difference, key)
    row["p_holm"] = run.p_holm
    row["non_inferior"] = None if run.comparison is None else run.comparison.non_inferior
    for name in ("mean", "low", "high", "p"):
        row[f"folds_{name}"] = math.nan if run.folds is None else getattr(run.folds, name)
    return row | {name: run.cost.get(name) for name in ("parameters", "multiply_adds", "seconds")}


def _page(comparison: RunComparison) -> Page:
    runs = comparison.runs
    dots = [plots.Dot(run.name, run.auroc.value, run.auroc.low, run.auroc.high) for run in runs]
    name = name_of(comparison.metric)
    reference = next(run for run in runs if run.comparison is None)
    drawings = [
        Drawing(
            name,
            plots.dots(dots, f"{name} with 95 % interval", reference.auroc.value),
            "Intervals of models on the same samples may overlap even if their difference is clear.",
        )
    ]
    side = "Left" if lower_is_better(comparison.metric) else "Right"
    differences = [(run.name, run.difference) for run in runs if run.difference is not None]
    dots = [plots.Dot(name, one.value, one.low, one.high) for name, one in differences]
    label = f"{name} minus that of {comparison.reference}, with 95 % interval"
    drawings.append(Drawing("Differences", plots.dots(dots, label, 0.0), f"{side} of the line: better."))
    verdicts = [run.comparison.verdict for run in runs if run.comparison is not None]
    sections = [
        Section(title="Runs", paragraphs=verdicts, drawings=drawings, table=_grid(runs, name), notes=comparison.notes)
    ]
    if any(run.folds for run in runs):
        sections.append(Section(title="Over the folds", table=_folds(runs)))
    patients = f" of {comparison.patients} patients" if comparison.patients < comparison.n else ""
    return Page(
        title=f"{len(runs)} runs on {comparison.table}",
        notice=comparison.notice,
        paragraphs=[
            f"Compared on the same {comparison.n} samples{patients}, with {comparison.reference} as reference."
        ],
        sections=sections,
        commands=[run.command for run in runs if run.command],
    )


def _grid(runs: tuple[ComparedRun, ...], name: str) -> Grid:
    columns = ["Run", name, "Difference", "p", "p, Holm", "Parameters", "Training time"]
    rows: list[list[Cell]] = []
    for run in runs:
        row: list[Cell] = [(run.name, run.evaluated), (number(run.auroc.value), interval(run.auroc))]
        if run.difference is None:
            row += ["reference", "", ""]
        else:
            difference = (signed(run.difference.value), interval(run.difference))
            row += [difference, p_value(run.difference.p), p_value(run.p_holm)]
        cost = run.cost
        row += [f"{cost['parameters']:,}", f"{cost['seconds']:,.0f} s"] if cost else ["", ""]
        rows.append(row)
    return Grid(columns, rows)


def _folds(runs: tuple[ComparedRun, ...]) -> Grid:
    rows: list[list[Cell]] = []
    for run in runs:
        if run.folds is not None:
            test = run.folds
            each = ", ".join(signed(value) for value in test.differences)
            rows.append([(run.name, each), (signed(test.mean), interval(test)), p_value(test.p)])
    return Grid(["Run and its difference in each fold", "Mean difference", "p"], rows)
