"""The report of a regression: one HTML page on how far predicted numbers are from the true ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from softfree.evaluation import formatting as output
from softfree.evaluation import subgroups
from softfree.evaluation.metrics import Metric
from softfree.evaluation.page import Cell, Drawing, Grid, Page, Section, write_page
from softfree.evaluation.plots import bland_altman, learning_curves, predicted_against_true
from softfree.evaluation.report import Compared, Report
from softfree.evaluation.subgroups import GroupRow
from softfree.evaluation.values import Values

OF_GROUPS = ("mae", "r2", "bias")
AGREEMENT = (
    "Prediction minus truth over the range of the number. The limits of agreement are 1.96 standard deviations of the"
    " differences to either side of the bias: 95 % of them lie between, if they are normally distributed."
)
CALIBRATION = (
    "Each point is a sample. The fitted line is the mean truth for a prediction: a slope below 1 means that the"
    " predictions are too far from the mean."
)


def write_number_report(path: Path, report: Report) -> None:
    """Write the report of a regression as a self-contained HTML file, atomically."""
    write_page(path, number_page(report))


def number_page(report: Report) -> Page:
    """Compose the page."""
    assert isinstance(report.scores, Values)
    mae, name = report.metrics["mae"], report.task.classes[0]
    patients = len(np.unique(report.scores.patients))
    return Page(
        title=report.title,
        notice=report.notice,
        paragraphs=[
            f"Mean absolute error of {name}: {output.number(mae.value)} ({mae.level * 100:g} % interval"
            f" {output.interval(mae)}), over {len(report.scores)} samples of {patients} patients.",
            "For research. Not a medical device; not for diagnosis.",
        ],
        sections=list(_sections(report, report.scores)),
        commands=[report.command],
    )


def _sections(report: Report, values: Values) -> Iterator[Section]:
    rows: list[list[Cell]] = [
        [(row.name, row.method), row.value, row.interval] for row in output.summary_rows(report.metrics)
    ]
    yield Section(title="Results", table=Grid(("Metric", "Value", "95 % interval"), rows))
    if report.baselines or report.baseline_notes:
        yield compared(
            "mae",
            "Comparison with simpler models",
            "Ridge regressions on features without fine detail, fitted on the training samples and measured on the same"
            " samples as the model. A positive difference means that the model is worse.",
            [(other.title, other) for other in report.baselines],
            [*report.baseline_warnings, *report.baseline_notes],
        )
    drawings = [
        Drawing("True against predicted", predicted_against_true(values), CALIBRATION),
        Drawing("Bland-Altman plot", bland_altman(values), AGREEMENT),
    ]
    if report.history is not None and len(report.history):
        caption = "By epoch; the dotted line marks the least validation error."
        drawings.append(Drawing("Training", learning_curves(report.history), caption))
    yield Section(title="Figures", drawings=drawings)
    if report.comparisons:
        verdicts = [other.comparison.verdict for other in report.comparisons if other.comparison]
        yield compared("mae", "Comparison", "", [(other.name, other) for other in report.comparisons], verdicts)
    if report.folds:
        yield grouped(OF_GROUPS, "Folds", "Fold held out", report.folds, report.fold_note)
    for column, groups in report.subgroups.items():
        yield grouped(OF_GROUPS, f"Subgroups by {column}", "Group", groups, subgroups.NOTE)
    yield from about(report)


def compared(
    metric: str, title: str, text: str, others: Sequence[tuple[str, Compared]], notes: Sequence[str]
) -> Section:
    """Compose a section that compares with other models by a metric."""
    rows: list[list[Cell]] = []
    for name, other in others:
        difference = None if other.comparison is None else other.comparison.differences[metric]
        cell: Cell = "" if difference is None else (output.signed(difference.value), output.interval(difference))
        rows.append([name, (output.number(other.auroc.value), output.interval(other.auroc)), cell])
    table = Grid(("", output.name_of(metric), "This model minus the other"), rows) if rows else None
    return Section(title=title, paragraphs=[text] if text else [], table=table, notes=notes)


def grouped(names: Sequence[str], title: str, heading: str, groups: Sequence[GroupRow], note: str) -> Section:
    """Compose a section with metrics of groups."""
    rows: list[list[Cell]] = []
    for group in groups:
        name: Cell = (group.group, "small group: unreliable") if group.small else group.group
        rows.append([name, str(group.n), *_cells(group.metrics, names)])
    columns = (heading, "Samples", *(output.name_of(name) for name in names))
    return Section(title=title, paragraphs=[note], table=Grid(columns, rows))


def _cells(metrics: Mapping[str, Metric], names: Sequence[str]) -> list[Cell]:
    return [(output.number(metrics[name].value), output.interval(metrics[name])) for name in names]


def about(report: Report) -> Iterator[Section]:
    """Compose the sections on data, cost and versions."""
    yield _data(report)
    yield Section(title="Cost", table=Grid(("", ""), list(report.cost.items())))
    yield Section(title="Versions", table=Grid(("Package", "Version"), list(report.versions.items())))


def _data(report: Report) -> Section:
    columns, rows = report.data_table()
    return Section(title="Data", table=Grid(columns, rows) if rows else None, notes=report.data_notes)
