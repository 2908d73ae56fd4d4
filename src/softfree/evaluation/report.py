"""The report: one HTML page on how well a model performs, on which samples, and with what uncertainty."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sklearn.metrics import confusion_matrix

from softfree.evaluation import formatting as output
from softfree.evaluation import plots, subgroups
from softfree.evaluation.answers import Answers
from softfree.evaluation.comparison import Comparison
from softfree.evaluation.conformal import ClassCoverage, Coverage
from softfree.evaluation.metric_specs import predict_labels, threshold_of
from softfree.evaluation.metrics import Metric
from softfree.evaluation.plots import style
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import GroupRow
from softfree_runtime.core.files import write_atomically
from softfree_runtime.core.task import Task

PER_CLASS = ("auroc", "average_precision", "sensitivity", "specificity")
MAX_CONFUSIONS = 10


class Thumbnail(NamedTuple):
    """A small image with a caption, and optional images to its left and right."""

    png: bytes
    caption: str
    beside: bytes | None = None
    others: tuple[bytes, ...] = ()


class Counts(NamedTuple):
    """How many samples and patients a split has, and what is said of each class: a number or words."""

    split: str
    samples: int
    patients: int
    classes: Mapping[str, int | str]


class Compared(NamedTuple):
    """Another model, or this one on other images, and how this one compares with it, if known.

    Of a regression, ``auroc`` is the mean absolute error. ``prefix`` is what to write before the name.
    """

    name: str
    auroc: Metric
    comparison: Comparison | None = None
    prefix: str = ""

    @property
    def title(self) -> str:
        """The name in words."""
        return f"{self.prefix}{self.name}"


@dataclass(kw_only=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: Of the page.
        notice: What readers must know first, for example that the images are phantoms.
        task: What is predicted.
        data: Counts of each split, of the same classes.
        data_notes: Split, skipped samples and preprocessing, in words.
        cost: Such as ``{"Parameters": "1.2 M"}``.
        metrics: From :func:`~softfree.evaluation.metrics.measure`, for ``scores``.
        scores: Of the evaluated samples.
        thresholds: As passed to ``measure``, chosen on validation samples.
        command: The command of the run.
        versions: Package versions.
        history: Log of training, see :func:`~softfree.evaluation.plots.learning_curves`.
        comparisons: With other runs, or with reduced images.
        baselines: Simpler models on the same samples.
        baseline_warnings: Evidence from them against this model.
        baseline_notes: Why one is missing, or measured on fewer samples.
        subgroups: Groups by column.
        images: Such as the worst errors; only if the user asked for images.
        maps: Saliency maps; only if the user asked for them.
        map_notes: What the maps mean, or why there are none; default: a general sentence.
        folds: AUROC in each fold of a cross-validation.
        fold_note: What their spread means.
        suspects: Labels that are probably wrong, the least probable first.
        suspect_note: How many there are and what that means; empty if they were not searched for.
        coverage: How conformal sets work.
        group_coverage: The same over all classes by group, by column.
    """

    title: str
    notice: str | None
    task: Task
    data: Sequence[Counts]
    data_notes: Sequence[str]
    cost: Mapping[str, str]
    metrics: Mapping[str, Metric]
    scores: Answers
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
    folds: Sequence[GroupRow] = ()
    suspects: pd.DataFrame | None = None
    suspect_note: str = ""
    fold_note: str = ""
    coverage: Coverage | None = None
    group_coverage: Mapping[str, Mapping[str, ClassCoverage]] = field(default_factory=dict)

    def data_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the columns and rows of the table of :attr:`data`."""
        classes = self.data[0].classes if self.data else {}
        rows = [[str(cell) for cell in (*row[:3], *row.classes.values())] for row in self.data]
        return [*Counts._fields[:3], *classes], rows

    @property
    def class_scores(self) -> Scores:
        """The scores of classes or findings; a regression has a report of its own kind."""
        assert isinstance(self.scores, Scores)
        return self.scores


def write_report(path: Path, report: Report) -> None:
    """Write the report as a self-contained HTML file, atomically."""
    write_atomically(path, render(report))


@cache
def environment() -> Environment:
    """Return the templates of this package, with the filters that they use."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": output.number, "interval": output.interval, "how": output.how, "png": _data_uri}
    templates.filters |= {"name_of": output.name_of, "short": _short}
    return templates


def render(report: Report) -> str:
    """Render the report's HTML."""
    matrix = _confusion(report)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            patients=len(np.unique(report.scores.patients)),
            overall={
                name: metric for name, metric in report.metrics.items() if "/" not in name or _single(report.task)
            },
            per_class=_per_class(report),
            class_notes=_class_notes(report),
            figures=_figures(report, matrix),
            mixed_up=[] if matrix is None else _mixed_up(matrix, report.task.classes),
            subgroup_note=subgroups.NOTE,
            group_metrics=_group_metrics(report.task),
        )
    )


def _single(task: Task) -> bool:
    return len(task.scored) == 1


def _class_notes(report: Report) -> list[str]:
    """Notes on how the intervals of the table of classes are computed, and why some are missing."""
    methods: dict[str, dict[str, None]] = {}
    missing = []
    for k in report.task.scored:
        for statistic in _per_class_metrics(report.task):
            name = f"{statistic}/{report.task.classes[k]}"
            if (metric := report.metrics.get(name)) is None:
                continue
            if not math.isnan(metric.low):
                method = metric.method.rpartition("; ")[2].partition(", each")[0]
                methods.setdefault(re.sub(r", \d+ without.*", "", method), {})[output.NAMES[statistic]] = None
            if metric.reason:
                missing.append(f"{_short(output.name_of(name))}: {metric.reason}")
    return [f"{', '.join(statistics)}: {method}" for method, statistics in methods.items()] + missing


def _group_metrics(task: Task) -> tuple[str, ...]:
    """Choose the metrics that the tables of subgroups show."""
    if not _single(task):
        return ("auroc", "quadratic_kappa", "mae") if task.ordered else ("auroc", "balanced_accuracy")
    return ("auroc", f"sensitivity/{task.classes[1]}", f"specificity/{task.classes[1]}")


def _per_class_metrics(task: Task) -> tuple[str, ...]:
    """Choose the metrics of the table of classes."""
    return ("auroc_above", *PER_CLASS) if task.ordered else PER_CLASS


def _per_class(report: Report) -> list[dict[str, Any]]:
    """Rows of the table of classes, none for a task of one scored class."""
    if _single(report.task):
        return []
    rows = []
    for k in report.task.scored:
        name = report.task.classes[k]
        metrics = {
            statistic: report.metrics.get(f"{statistic}/{name}") for statistic in _per_class_metrics(report.task)
        }
        positives = int(report.class_scores.one_vs_rest(k)[0].sum())
        threshold = None if report.task.exclusive else _threshold_in_words(report, name)
        rows.append({"name": name, "n_positive": positives, "threshold": threshold, "metrics": metrics})
    return rows


def _threshold_in_words(report: Report, name: str) -> str:
    """State the threshold of a finding; the least and the largest if each fold has its own."""
    own = report.class_scores.thresholds
    if own is None:
        return output.number(threshold_of(name, report.thresholds or None))
    low, high = output.number(own[name].min()), output.number(own[name].max())
    return low if low == high else f"{low} to {high}"


def _figures(report: Report, matrix: np.ndarray | None) -> dict[str, Markup]:
    """Draw all figures for which the report has data."""
    scores = report.class_scores
    drawn = {
        "roc": plots.svg(plots.roc(scores), "ROC curve"),
        "precision_recall": plots.svg(plots.precision_recall(scores), "Precision-recall curve"),
        "reliability": plots.svg(plots.reliability(scores), "Reliability curve"),
    }
    if report.task.by_threshold:
        drawn["decision"] = plots.svg(plots.decision_curve(scores), "Decision curve")
    if matrix is not None:
        drawn["confusion"] = plots.svg(plots.confusion(matrix, report.task.classes), "Confusion matrix")
    if report.history is not None and len(report.history):
        drawn["learning"] = plots.svg(plots.learning_curves(report.history), "Learning curves")
    this = report.metrics["auroc"]
    if report.comparisons:
        rows = [("this model", this), *((other.name, other.auroc) for other in report.comparisons)]
        drawn["comparisons"] = _dots(rows, "AUROC of the compared models", this.value)
    if report.folds:
        rows = [("all folds", this), *((fold.group, fold.metrics["auroc"]) for fold in report.folds)]
        drawn["folds"] = _dots(rows, "AUROC by fold", this.value)
    for column, groups in report.subgroups.items():
        rows = [("all", this), *((row.group, row.metrics["auroc"]) for row in groups)]
        drawn[f"subgroup/{column}"] = _dots(rows, f"AUROC by {column}", this.value)
    return {name: Markup(text) for name, text in drawn.items()}


def _dots(rows: Sequence[tuple[str, Metric]], label: str, reference: float) -> str:
    dots = [plots.Dot(name, metric.value, metric.low, metric.high) for name, metric in rows]
    level = f"{rows[0][1].level * 100:g} %"
    return plots.svg(plots.dots(dots, f"AUROC with {level} interval", reference), label)


def _confusion(report: Report) -> np.ndarray | None:
    """Confusion matrix; None for tasks of several findings, and without samples."""
    known = ~np.isnan(report.class_scores.probabilities).any(1)
    if not report.task.exclusive or not known.any():
        return None
    predicted = predict_labels(report.class_scores, report.thresholds or None)[known].argmax(1)
    return np.asarray(
        confusion_matrix(report.class_scores.targets[known], predicted, labels=range(len(report.task.classes)))
    )


def _mixed_up(matrix: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Most frequent confusions of more than two classes: truth, prediction, count, number of samples."""
    if len(classes) == 2:
        return []
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
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
