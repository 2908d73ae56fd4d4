"""Metrics as text for the terminal or a page, and as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softfree_runtime.core.files import write_atomically

if TYPE_CHECKING:
    from softfree.evaluation.comparison import Difference
    from softfree.evaluation.metrics import Metric
    from softfree.evaluation.paired_tests import FoldTest

NAMES = {
    "auroc": "AUROC",
    "auroc_delong": "AUROC, patients ignored",
    "auroc_above": "AUROC above",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "ppv_at_prevalence": "PPV, stated prevalence",
    "npv_at_prevalence": "NPV, stated prevalence",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "kappa": "Cohen's kappa",
    "quadratic_kappa": "Quadratic weighted kappa",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "bias": "Bias",
    "agreement_low": "Lower limit of agreement",
    "agreement_high": "Upper limit of agreement",
    "slope": "Calibration slope",
    "intercept": "Calibration intercept",
    "interval_coverage": "Interval coverage",
    "brier": "Brier score",
    "c_index": "C-index",
    "integrated_brier": "Integrated Brier score",
    "auroc_at": "AUROC at",
    "brier_at": "Brier score at",
    "ece": "Calibration error",
    "score": "Mean score",
}
ABSENT = "–"


class SummaryRow(NamedTuple):
    """One metric as text."""

    name: str
    value: str
    interval: str
    samples: str
    method: str


def name_of(metric: str) -> str:
    """Display name of a metric: ``sensitivity/ill`` becomes ``Sensitivity, ill``."""
    statistic, _, of = metric.partition("/")
    words = NAMES.get(statistic, statistic)
    if not of:
        return words
    return f"{words} {of}" if statistic in ("auroc_above", "auroc_at", "brier_at") else f"{words}, {of}"


def number(value: float) -> str:
    """Format a number with three decimals, NaN as a dash."""
    return ABSENT if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def p_value(p: float) -> str:
    """Format a p value, NaN as a dash."""
    return ABSENT if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float) -> str:
    """Format a difference with its sign, NaN as a dash."""
    return ABSENT if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def interval(metric: Metric | Difference | FoldTest) -> str:
    """Format an interval, a missing one as a dash."""
    return ABSENT if math.isnan(metric.low) else f"{number(metric.low)} to {number(metric.high)}"


def how(metric: Metric) -> str:
    """State how a metric was computed and what is missing from it."""
    return "; ".join(part for part in (metric.method, metric.reason) if part)


def summary_rows(metrics: Mapping[str, Metric]) -> list[SummaryRow]:
    """Format metrics, one row each, in their order."""
    rows = []
    for name, metric in metrics.items():
        value, samples = number(metric.value), _samples(name, metric)
        rows.append(SummaryRow(name_of(name), value, interval(metric), samples, how(metric)))
    return rows


def _samples(name: str, metric: Metric) -> str:
    """State the samples of a metric: a specificity is over negatives only."""
    if name.startswith(("c_index", "auroc_at")):
        return f"{metric.n} ({metric.n_positive} events)"
    if metric.n_positive is None or metric.n == 0:
        return f"{metric.n}"
    if metric.n_positive in (0, metric.n):
        return f"{metric.n} {'positive' if metric.n_positive else 'negative'}"
    return f"{metric.n} ({metric.n_positive} positive)"


def metrics_to_json(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Convert metrics to strict JSON values: NaN becomes None, and ``reason`` says why."""
    return {name: strict_json(asdict(metric)) for name, metric in metrics.items()}


def write_metrics(path: Path, metrics: Mapping[str, Metric], about: Mapping[str, Any] | None = None) -> None:
    """Write ``{**about, "metrics": {...}}`` as strict JSON, atomically.

    Args:
        path: Of the file.
        metrics: The metrics.
        about: Further entries, such as the split or the thresholds.
    """
    content = strict_json({**(about or {}), "metrics": metrics_to_json(metrics)})
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def strict_json(value: Any) -> Any:
    """Convert to values of strict JSON: what is not a finite number becomes None."""
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
