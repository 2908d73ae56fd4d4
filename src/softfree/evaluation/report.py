"""One HTML page that says what a model can do, on which samples, and how sure that is."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sklearn.metrics import confusion_matrix

from softfree.evaluation import formatting as output
from softfree.evaluation import plots, subgroups
from softfree.evaluation.comparison import Comparison
from softfree.evaluation.metric_specs import predict_labels, threshold_of
from softfree.evaluation.metrics import Metric
from softfree.evaluation.plots import style
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import GroupRow
from softfree_runtime.core.task import Task

PER_CLASS = ("auroc", "average_precision", "sensitivity", "specificity")
MOST_MIXED_UP = 10


class Thumbnail(NamedTuple):
    """A small image, what it shows, and perhaps others to stand on its left and on its right."""

    png: bytes
    caption: str
    beside: bytes | None = None
    others: tuple[bytes, ...] = ()


class Compared(NamedTuple):
    """Another model, or the same one on other images, and how this one compares with it where that is known."""

    name: str
    auroc: Metric
    comparison: Comparison | None = None


@dataclass(kw_only=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: of the page.
        notice: what must be known before anything else, for example that the images are phantoms.
        task: what is predicted.
        data: rows of a table, such as ``{"split": "train", "images": 140, "patients": 120, "ill": 70}``.
        data_notes: how the split was made, what was skipped and why, the preprocessing, in words.
        cost: such as ``{"Parameters": "1.2 M"}``.
        metrics: as :func:`~softfree.evaluation.metrics.measure` gives them for ``scores``.
        scores: of the samples that the report judges by.
        thresholds: as given to ``measure``, chosen on validation samples.
        command: that made the run.
        versions: package to version.
        history: what training logged, see :func:`~softfree.evaluation.plots.learning_curves`.
        comparisons: with other runs, or with reduced images.
        baselines: simpler models on the same samples.
        baseline_warnings: what they tell against this model.
        baseline_notes: why one is missing, or rests on fewer samples.
        subgroups: column to its groups.
        images: such as the worst errors; only where the user asked for images.
        maps: why the model decided so; only where the user asked for images.
        map_notes: what these are and mean, or why there are none; default: a general word.
    """

    title: str
    notice: str | None
    task: Task
    data: Sequence[Mapping[str, Any]]
    data_notes: Sequence[str]
    cost: Mapping[str, str]
    metrics: Mapping[str, Metric]
    scores: Scores
    thresholds: Mapping[str, float]
    command: str
    versions: Mapping[str, str]
    history: pd.DataFrame | None = None
    comparisons: Sequence[Compared] = ()
    baselines: Sequence[Compared] = ()
    baseline_warnings: Sequence[str] = ()
    baseline_notes: Sequence[str] = ()
    subgroups: Mapping[str, Sequence[GroupRow]] = field(default_factory=dict)
    images: Sequence[Thumbnail] = ()
    maps: Sequence[Thumbnail] = ()
    map_notes: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file that needs no other, whole or not at all."""
    output.write_text(path, render(report))


def render(report: Report) -> str:
    """Render the report's HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": output.number, "interval": output.interval, "how": output.how, "png": _data_uri}
    environment.filters |= {"name_of": output.name_of, "short": _short}
    matrix = _confusion(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        patients=len(np.unique(report.scores.patients)),
        overall={name: metric for name, metric in report.metrics.items() if "/" not in name or _single(report.task)},
        per_class=_per_class(report),
        class_notes=_class_notes(report),
        figures=_figures(report, matrix),
        mixed_up=[] if matrix is None else _mixed_up(matrix, report.task.classes),
        data_columns=list(dict.fromkeys(column for row in report.data for column in row)),
        subgroup_note=subgroups.NOTE,
        group_metrics=_group_metrics(report.task),
    )


def _single(task: Task) -> bool:
    return len(task.scored) == 1


def _class_notes(report: Report) -> list[str]:
    """Say how the intervals of the table of classes are made, and why some are missing."""
    ways: dict[str, dict[str, None]] = {}
    gaps = []
    for k in report.task.scored:
        for statistic in PER_CLASS:
            name = f"{statistic}/{report.task.classes[k]}"
            if (metric := report.metrics.get(name)) is None:
                continue
            if not math.isnan(metric.low):
                way = metric.method.rpartition("; ")[2].partition(", each")[0]
                ways.setdefault(re.sub(r", \d+ without.*", "", way), {})[output.NAMES[statistic]] = None
            if metric.reason:
                gaps.append(f"{_short(output.name_of(name))}: {metric.reason}")
    return [f"{', '.join(statistics)}: {way}" for way, statistics in ways.items()] + gaps


def _group_metrics(task: Task) -> tuple[str, ...]:
    """Choose the metrics that the tables of subgroups show."""
    if not _single(task):
        return ("auroc", "balanced_accuracy")
    return ("auroc", f"sensitivity/{task.classes[1]}", f"specificity/{task.classes[1]}")


def _per_class(report: Report) -> list[dict[str, Any]]:
    """Rows of the table of classes, none for a task of one scored class."""
    if _single(report.task):
        return []
    rows = []
    for k in report.task.scored:
        name = report.task.classes[k]
        metrics = {statistic: report.metrics.get(f"{statistic}/{name}") for statistic in PER_CLASS}
        positives = int(report.scores.one_vs_rest(k)[0].sum())
        threshold = None if report.task.exclusive else threshold_of(name, report.thresholds or None)
        rows.append({"name": name, "n_positive": positives, "threshold": threshold, "metrics": metrics})
    return rows


def _figures(report: Report, matrix: np.ndarray | None) -> dict[str, Markup]:
    """Draw all figures that the report has something for."""
    scores = report.scores
    drawn = {
        "roc": plots.svg(plots.roc(scores), "ROC curve"),
        "precision_recall": plots.svg(plots.precision_recall(scores), "Precision-recall curve"),
        "reliability": plots.svg(plots.reliability(scores), "Reliability curve"),
    }
    if matrix is not None:
        drawn["confusion"] = plots.svg(plots.confusion(matrix, report.task.classes), "Confusion matrix")
    if report.history is not None and len(report.history):
        drawn["learning"] = plots.svg(plots.learning_curves(report.history), "Learning curves")
    this = report.metrics["auroc"]
    if report.comparisons:
        rows = [("this model", this), *((other.name, other.auroc) for other in report.comparisons)]
        drawn["comparisons"] = _dots(rows, "AUROC of the compared models", this.value)
    for column, groups in report.subgroups.items():
        rows = [("all", this), *((row.group, row.metrics["auroc"]) for row in groups)]
        drawn[f"subgroup/{column}"] = _dots(rows, f"AUROC by {column}", this.value)
    return {name: Markup(text) for name, text in drawn.items()}


def _dots(rows: Sequence[tuple[str, Metric]], label: str, reference: float) -> str:
    dots = [plots.Dot(name, metric.value, metric.low, metric.high) for name, metric in rows]
    level = f"{rows[0][1].level * 100:g} %"
    return plots.svg(plots.dots(dots, f"AUROC with {level} interval", reference), label)


def _confusion(report: Report) -> np.ndarray | None:
    """Count truth against call; None where several findings may hold at once, and without samples."""
    known = ~np.isnan(report.scores.probabilities).any(1)
    if not report.task.exclusive or not known.any():
        return None
    calls = predict_labels(report.scores, report.thresholds or None)[known].argmax(1)
    return np.asarray(confusion_matrix(report.scores.targets[known], calls, labels=range(len(report.task.classes))))


def _mixed_up(matrix: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """List the most frequent mix-ups of more than two classes: truth, call, how often, of how many."""
    if len(classes) == 2:
        return []
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MIXED_UP]
    pairs = [divmod(int(i), len(classes)) for i in order]
    return [
        (classes[row], classes[column], int(wrong[row, column]), int(matrix[row].sum()))
        for row, column in pairs
        if wrong[row, column]
    ]


def _short(name: object) -> str:
    return style.short(str(name), 40)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"
