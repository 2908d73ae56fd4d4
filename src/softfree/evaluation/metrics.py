"""Metrics with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from softfree.evaluation import delong
from softfree.evaluation.answers import Answers
from softfree.evaluation.bootstrap import Statistic, distribution
from softfree.evaluation.intervals import (
    MAX_LEFT_OUT,
    MAX_LEFT_OUT_OF_MEAN,
    MIN_PATIENTS,
    Interval,
    bias_corrected,
    newcombe,
    no_interval,
    wilson,
)
from softfree.evaluation.metric_specs import Quantity, aurocs, quantities
from softfree.evaluation.scores import Scores
from softfree.evaluation.survival_quantities import survival_quantities
from softfree.evaluation.times import Times
from softfree.evaluation.value_metrics import value_quantities
from softfree.evaluation.values import Values
from softfree_runtime.core.task import Task

MainMetric = Literal["auroc", "mae", "c_index"]
"""The metrics by which models are compared first."""
ORDER = (
    "c_index",
    "integrated_brier",
    "auroc_at",
    "brier_at",
    "auroc",
    "auroc_delong",
    "auroc_above",
    "average_precision",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "ppv_at_prevalence",
    "npv_at_prevalence",
    "f1",
    "mcc",
    "kappa",
    "quadratic_kappa",
    "mae",
    "balanced_accuracy",
    "accuracy",
    "brier",
    "ece",
    "rmse",
    "r2",
    "bias",
    "agreement_low",
    "agreement_high",
    "slope",
    "intercept",
    "interval_coverage",
)
# Probabilities that a bootstrap goes over, in all: 50,000 images of 1,000 classes take minutes with 200 resamples and
# hours with 2,000, and intervals over that many hardly differ.
MAX_RESAMPLED, MIN_RESAMPLES = 10**10, 200
NO_ECE_INTERVAL = "no interval: the error is biased upwards in small samples, and more so in resamples"


@dataclass(frozen=True)
class Metric:
    """A number, its confidence interval and how both were computed.

    Attributes:
        value: NaN if undefined.
        low: Lower bound of the interval, NaN if undefined.
        high: Upper bound.
        method: How the interval (and, where not obvious, the number) is computed.
        n: Number of samples.
        n_positive: Positives among them; None if it is not about a single class.
        reason: Why the value or the interval is missing, or what was left out; None if nothing is.
        level: Of confidence.
    """

    value: float
    low: float
    high: float
    method: str
    n: int
    n_positive: int | None
    reason: str | None = None
    level: float = 0.95


def measure(
    scores: Answers,
    thresholds: Mapping[str, float] | None,
    *,
    seed: int = 0,
    num_bootstrap: int = 2000,
    level: float = 0.95,
    only: MainMetric | None = None,
    draws: Mapping[str, np.ndarray] | None = None,
    prevalence: float | None = None,
) -> dict[str, Metric]:
    """Measure all metrics of a task, with their intervals.

    ``auroc``, ``average_precision``, ``f1``, ``mcc`` (Matthews' correlation), ``kappa``, ``balanced_accuracy``,
    ``accuracy``, ``brier`` and ``ece``; for each scored class ``sensitivity/<class>``, ``specificity/<class>``,
    ``ppv/<class>`` and ``npv/<class>`` (predictive values, at the prevalence of the samples). Tasks of more than one
    scored class have the first three as means over one-vs-rest classes, besides those of each class; the other ones of
    a multilabel task are means over findings, which are listed, too. Classes that have an order, or are increasing
    numbers, also have ``quadratic_kappa``. An ordinal task has ``mae``, the mean distance of the predicted class from
    the true one, counted in classes; ``auroc_above/<class>``, of the classes above one against the others; and its
    ``auroc`` is the mean of these. Unknown truths are ignored. A regression has the metrics of
    :func:`~softfree.evaluation.value_metrics.value_quantities`, survival those of
    :func:`~softfree.evaluation.survival_quantities.survival_quantities`.

    Intervals: where every patient has one sample, DeLong's for an AUROC, Wilson's for proportions, else (and for means
    over classes always) the bias-corrected percentile bootstrap over patients. A binary task with repeated patients
    also has ``auroc_delong``, to compare with papers that ignore the repeats. Proportions and areas of exactly 0 or 1,
    where all resamples agree, have Wilson's or Newcombe's interval with patients for samples.

    Args:
        scores: Predictions and truths.
        thresholds: Probability from which each class counts as present, chosen on validation samples; 0.5 if None.
            Multiclass tasks predict the most probable class, ordinal ones the median class.
        seed: Of the bootstrap.
        num_bootstrap: Number of resamples; fewer, down to 200, for many millions of probabilities (the method says so).
        level: Of confidence.
        only: Compute only this metric; default: all.
        draws: From :func:`draws_of_auroc` with the same ``seed`` and ``num_bootstrap``, if ``only`` is ``auroc``.
        prevalence: Share of positives where a binary model is to be used: adds ``ppv_at_prevalence/<class>`` and
            ``npv_at_prevalence/<class>``.

    Raises:
        UserError: A class has no threshold, or a prevalence does not fit.
    """
    items = all_quantities(scores, thresholds, prevalence, only)
    num_bootstrap = min(num_bootstrap, max(MIN_RESAMPLES, MAX_RESAMPLED // max(1, scores.size)))
    repeat = scores.patients_repeat
    names = [name for name, item in items.items() if (item.family == "other" or repeat) and only in (None, name)]
    if draws is None:
        draws = distribution(resampled(items, names), scores.patients, num_bootstrap=num_bootstrap, seed=seed)
    who = f"{len(np.unique(scores.patients))} patients" if repeat else f"{len(scores)} samples"
    words = f"bootstrap over {who}, {num_bootstrap} resamples, seed {seed}"
    found = {
        name: _metric(item, _interval(item, name, scores, draws, level, words, independent(item, items, scores)), level)
        for name, item in items.items()
        if only in (None, name)
    }
    if isinstance(scores, Scores) and scores.task.kind == "binary" and repeat and only is None:
        area = items["auroc"]
        interval = _delong(area, scores, level)
        interval = interval._replace(method=f"{interval.method}; treats samples of one patient as independent")
        found["auroc_delong"] = _metric(area, interval, level)
    single = scores.task.kind == "binary"
    ranks = {name: (not single and "/" in name, ORDER.index(name.partition("/")[0])) for name in found}
    return {name: found[name] for name in sorted(found, key=ranks.__getitem__)}


def main_metric(task: Task) -> MainMetric:
    """Name the metric by which models of a task are compared first."""
    return target_metric(task.kind)


def target_metric(kind: str | None) -> MainMetric:
    """Return :func:`main_metric` of a kind of task, as ``--task`` names it; None for classes or findings."""
    return "mae" if kind == "regression" else "c_index" if kind == "survival" else "auroc"


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is better, as of an error."""
    return metric.partition("/")[0] in ("mae", "rmse", "brier", "brier_at", "integrated_brier", "ece")


def all_quantities(
    scores: Answers,
    thresholds: Mapping[str, float] | None = None,
    prevalence: float | None = None,
    only: str | None = None,
) -> dict[str, Quantity]:
    """List the quantities of a task by name, or if ``only`` is ``auroc`` those that it consists of."""
    if isinstance(scores, Values):
        return value_quantities(scores)
    if isinstance(scores, Times):
        return survival_quantities(scores)
    return aurocs(scores) if only == "auroc" else quantities(scores, thresholds, prevalence)


def draws_of_auroc(scores: Answers, *, seed: int, num_bootstrap: int) -> dict[str, np.ndarray]:
    """Resample what an AUROC and its difference from another need; nothing where DeLong's intervals suffice.

    Of a regression, the mean absolute error takes its place, of survival the C-index.
    """
    main = main_metric(scores.task)
    items = all_quantities(scores, only=main)
    names = [main] if items[main].family == "other" or scores.patients_repeat else []
    return distribution(resampled(items, names), scores.patients, num_bootstrap=num_bootstrap, seed=seed)


def resampled(items: Mapping[str, Quantity], names: Iterable[str]) -> dict[str, Statistic]:
    """Collect the statistics that the named quantities need over resamples."""
    leaves = (part for name in names for part in items[name].parts or (name,))
    statistics = {name: items[name].statistic for name in leaves}
    return {name: statistic for name, statistic in statistics.items() if statistic is not None}


def draws_of(item: Quantity, name: str, draws: Mapping[str, np.ndarray]) -> np.ndarray:
    """Values of a quantity over the resamples: its own, or the mean of its parts' (NaN where one is undefined)."""
    return np.mean([draws[part] for part in item.parts or (name,)], axis=0)


def max_left_out(item: Quantity, draws: Mapping[str, np.ndarray]) -> float:
    """Fraction of the resamples that may lack a class: more for a mean if each of its parts has enough."""
    enough = all(np.isnan(draws[part]).mean() <= MAX_LEFT_OUT for part in item.parts)
    return MAX_LEFT_OUT_OF_MEAN if item.parts and enough else MAX_LEFT_OUT


def independent(item: Quantity, items: Mapping[str, Quantity], scores: Answers) -> int:
    """Count the patients behind a quantity: of the smaller class if it compares two, of the scarcest part of a mean."""
    if item.patients is not None:
        return item.patients
    if item.parts:
        return min(independent(items[part], items, scores) for part in item.parts)
    about_a_class = item.k is not None and item.family in ("auroc", "other") and item.n_positive is not None
    if isinstance(scores, Scores) and about_a_class:
        y, _, patients = item.against_others(scores)
        sides = [len(np.unique(patients[y == side])) for side in (0, 1)]
        return min(sides)
    return len(np.unique(scores.patients[item.rows]))


def _interval(
    item: Quantity,
    name: str,
    scores: Answers,
    draws: Mapping[str, np.ndarray],
    level: float,
    words: str,
    patients: int,
) -> Interval:
    if math.isnan(item.value):
        return no_interval("", "no value")
    if item.family == "ece":
        return no_interval("", NO_ECE_INTERVAL)
    trials = int(item.rows.sum())
    if isinstance(scores, Scores) and item.family == "auroc" and not scores.patients_repeat:
        return _delong(item, scores, level)
    if item.family == "proportion" and not scores.patients_repeat:
        return wilson(round(item.value * trials), trials, level)
    left_out = max_left_out(item, draws)
    interval = bias_corrected(item.value, draws_of(item, name, draws), level, words, left_out, patients)
    if patients < MIN_PATIENTS:
        return interval
    if not math.isnan(interval.low) or item.value not in (0, 1):
        return interval
    return _at_the_edge(item, scores, level) or interval


def _delong(item: Quantity, scores: Scores, level: float) -> Interval:
    y, score, _ = item.against_others(scores)
    area = delong.auroc(y, score, level=level)
    return Interval(area.low, area.high, area.method, area.reason)


def _at_the_edge(item: Quantity, scores: Answers, level: float) -> Interval | None:
    """Interval of a 0 or 1 with repeated patients: each counts as one sample, which is conservative."""
    if item.family == "proportion":
        patients = len(np.unique(scores.patients[item.rows]))
        interval = wilson(round(item.value * patients), patients, level)
    elif isinstance(scores, Scores) and item.family == "auroc":
        y, _, patient = item.against_others(scores)
        positives, negatives = (len(np.unique(patient[y == side])) for side in (1, 0))
        interval = newcombe(item.value, positives, negatives, level)
    else:
        return None
    return interval._replace(method=f"{interval.method}, each patient as one sample")


def _metric(item: Quantity, interval: Interval, level: float) -> Metric:
    method = "; ".join(part for part in (item.note, interval.method) if part)
    reason = "; ".join(part for part in (item.reason, interval.reason) if part and part != "no value") or None
    return Metric(item.value, interval.low, interval.high, method, int(item.rows.sum()), item.n_positive, reason, level)
