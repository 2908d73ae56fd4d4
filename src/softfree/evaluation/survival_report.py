"""The report of survival: one HTML page on how well predicted risks order the times to an event."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from softfree.evaluation import formatting as output
from softfree.evaluation import subgroups
from softfree.evaluation.kaplan_meier import halves, log_rank
from softfree.evaluation.number_report import about, compared, grouped
from softfree.evaluation.page import Cell, Drawing, Grid, Page, Section, write_page
from softfree.evaluation.plots import by_risk, learning_curves, survival_calibration
from softfree.evaluation.report import Report
from softfree.evaluation.times import Times

BY_RISK = (
    "Kaplan-Meier curves with 95 % intervals of the samples whose predicted risk is at most, and above, the median of"
    " these samples. {test} The test treats samples of one patient as independent."
)
CALIBRATION = (
    "Each point is a fifth of the samples, or fewer groups of at least ten: below the diagonal, fewer are free of the"
    " event than predicted."
)
OF_RISKS = (
    "Cox regressions on features without fine detail, fitted on the training samples and measured on the same samples"
    " as the model. A positive difference means that the model is better."
)


def write_survival_report(path: Path, report: Report) -> None:
    """Write the report of survival as a self-contained HTML file, atomically."""
    write_page(path, survival_page(report))


def survival_page(report: Report) -> Page:
    """Compose the page."""
    assert isinstance(report.scores, Times)
    times, found = report.scores, report.metrics["c_index"]
    patients, name = len(np.unique(times.patients)), report.task.classes[0]
    return Page(
        title=report.title,
        notice=report.notice,
        paragraphs=[
            f"C-index of {name}: {output.number(found.value)} ({found.level * 100:g} % interval"
            f" {output.interval(found)}), over {len(times)} samples of {patients} patients with"
            f" {int(times.events.sum())} events. 0.5 is chance; a higher risk means an earlier event.",
            "For research. Not a medical device; not for diagnosis.",
        ],
        sections=list(_sections(report, times)),
        commands=[report.command],
    )


def _sections(report: Report, times: Times) -> Iterator[Section]:
    rows: list[list[Cell]] = [
        [(row.name, row.method), row.value, row.interval] for row in output.summary_rows(report.metrics)
    ]
    yield Section(title="Results", table=Grid(("Metric", "Value", "95 % interval"), rows))
    if report.baselines or report.baseline_notes:
        others = [(other.title, other) for other in report.baselines]
        notes = [*report.baseline_warnings, *report.baseline_notes]
        yield compared("c_index", "Comparison with simpler models", OF_RISKS, others, notes)
    drawings = []
    if np.isfinite(times.risks).all():
        caption = BY_RISK.format(test=log_rank_in_words(times))
        drawings.append(Drawing("Free of the event by risk", by_risk(times), caption))
    if times.survival is not None and times.horizons:
        drawings.append(Drawing("Predicted and observed survival", survival_calibration(times), CALIBRATION))
    if report.history is not None and len(report.history):
        caption = "By epoch; the dotted line marks the best C-index of validation."
        drawings.append(Drawing("Training", learning_curves(report.history), caption))
    yield Section(title="Figures", drawings=drawings)
    if report.comparisons:
        verdicts = [other.comparison.verdict for other in report.comparisons if other.comparison]
        yield compared("c_index", "Comparison", "", [(other.name, other) for other in report.comparisons], verdicts)
    names = ("c_index", *(["integrated_brier"] if "integrated_brier" in report.metrics else []))
    if report.folds:
        yield grouped(names, "Folds", "Fold held out", report.folds, report.fold_note)
    for column, groups in report.subgroups.items():
        yield grouped(names, f"Subgroups by {column}", "Group", groups, subgroups.NOTE)
    yield from about(report)


def log_rank_in_words(times: Times) -> str:
    """State the log-rank test between the halves of lower and higher risk."""
    p = log_rank(times.targets, halves(times.risks))
    if math.isnan(p):
        return "There is no log-rank test: one half is empty, or there is no event."
    return f"Log-rank test between them: p {output.p_value(p) if p < 0.001 else f'= {output.p_value(p)}'}."
