"""Comparison of a run with the simpler models fitted with it, on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from softfree.evaluation.comparison import Comparison, compare
from softfree.evaluation.formatting import interval, metrics_to_json, number
from softfree.evaluation.metrics import MIN_RESAMPLES, Metric, draws_of_auroc, main_metric, measure
from softfree.evaluation.report import Compared
from softfree.evaluation.scores import Scores
from softfree.evaluation.values import Values
from softfree.inference.run import Run
from softfree.reporting.baselines import IMAGES, VARIABLES, column_of, read_baselines

MAX_RESAMPLES = 500
MAX_RESAMPLED = 35_000_000  # probabilities in all resamples together


@dataclass(frozen=True)
class BaselineComparison:
    """How the baselines compare with a run.

    Attributes:
        rows: One per baseline, with the difference between it and the model.
        warnings: Evidence against the model, one sentence each.
        notes: Why a baseline is missing or was evaluated on fewer samples, one sentence each.
        metric: By which they are compared: ``auroc``, or of a regression ``mae``.
    """

    rows: tuple[Compared, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metric: Literal["auroc", "mae"] = "auroc"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; NaN becomes None."""
        models = {}
        for row in self.rows:
            assert row.comparison is not None
            difference = asdict(row.comparison.differences[self.metric])
            plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in difference.items()}
            models[row.name] = metrics_to_json({self.metric: row.auroc})[self.metric] | {"model_minus_baseline": plain}
            models[row.name] |= {"title": row.title} if not row.prefix else {}
        return {"models": models, "warnings": list(self.warnings), "notes": list(self.notes)}


def compare_with_baselines(
    run: Run,
    frame: pd.DataFrame,
    scores: Scores | Values,
    metrics: Mapping[str, Metric],
    *,
    seed: int,
    num_bootstrap: int,
) -> BaselineComparison:
    """Evaluate the baselines whose probabilities are in ``frame``, on its readable rows.

    Args:
        run: The run.
        frame: Predictions, as in ``predictions.csv``.
        scores: Scores of the readable rows.
        metrics: Metrics of these scores.
        seed: Seed of the bootstrap.
        num_bootstrap: Number of resamples.
    """
    baselines = read_baselines(run.directory.baselines)
    if baselines is None:
        return BaselineComparison()
    main = main_metric(run.task)
    rows, warnings, notes = [], [], [f"{_capitalize(sentence)}." for sentence in baselines.missing]
    models: dict[int, _Resampled] = {}  # the run, by its number of samples
    others = {name: (regression.words, "Regression on ") for name, regression in baselines.fitted.items()}
    if VARIABLES in others:
        others[IMAGES] = ("this model without the clinical variables", "")
    for name, (words, prefix) in others.items():
        pair = _scores(frame, scores, name, run)
        if pair is None:
            notes.append(f"None on {words} here: all samples are streamed.")
            continue
        baseline_scores, model_scores = pair
        if len(baseline_scores) < len(scores):
            coverage = f"{len(baseline_scores)} of {len(scores)} samples; the others are streamed"
            notes.append(f"{_capitalize(words)}: {coverage}.")
        model = models.setdefault(len(model_scores), _Resampled(model_scores, seed, num_bootstrap))
        baseline = _Resampled(baseline_scores, seed, num_bootstrap)
        words = words if prefix else _capitalize(words)
        rows.append(Compared(words, baseline.auroc, model.compare_with(baseline), prefix))
        own = metrics[main] if model_scores is scores else model.auroc
        if name != IMAGES and (warning := _warning(name, words, baseline.auroc, own, main)):
            warnings.append(warning)
    return BaselineComparison(tuple(rows), tuple(warnings), tuple(notes), main)


class _Resampled:
    """Scores with their resamples, which are drawn once.

    There are fewer resamples than for the run's own metrics, so that baselines do not take longer than these.
    """

    def __init__(self, scores: Scores | Values, seed: int, num_bootstrap: int) -> None:
        number = max(MIN_RESAMPLES, MAX_RESAMPLED // max(1, scores.size))
        self.bootstrap: dict[str, int] = {"seed": seed, "num_bootstrap": min(num_bootstrap, MAX_RESAMPLES, number)}
        self.scores = scores

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        return draws_of_auroc(self.scores, **self.bootstrap)

    @cached_property
    def auroc(self) -> Metric:
        main = main_metric(self.scores.task)
        return measure(self.scores, None, only=main, draws=self.draws, **self.bootstrap)[main]

    def compare_with(self, other: _Resampled) -> Comparison:
        draws = self.draws, other.draws
        main = main_metric(self.scores.task)
        return compare(self.scores, other.scores, only=main, draws=draws, **self.bootstrap)  # type: ignore[arg-type]


def _scores(
    frame: pd.DataFrame, scores: Scores | Values, name: str, run: Run
) -> tuple[Scores | Values, Scores | Values] | None:
    """Return the scores of a baseline and of the run on the samples that both have; None without any."""
    columns = [column_of(name, class_name) for class_name in run.task.classes]
    if not set(columns) <= set(frame.columns):
        return None
    probabilities = frame.loc[frame["status"] == "ok", columns].to_numpy(float)
    in_both = ~np.isnan(probabilities).any(axis=1)
    if not in_both.any():
        return None
    model_scores = scores if in_both.all() else scores.subset(in_both)
    truth = model_scores.targets, model_scores.patients
    if run.task.numeric:
        return Values(run.task, probabilities[in_both][:, 0], *truth), model_scores
    return Scores(run.task, probabilities[in_both], *truth), model_scores


def _warning(name: str, words: str, baseline: Metric, model: Metric, main: str) -> str | None:
    conclusion = "the images add anything" if name == VARIABLES else "the model learned more"
    if main == "mae":
        if baseline.value > model.value:
            return None
        return (
            f"A regression on {words} has a mean absolute error of {number(baseline.value)}, no more than the model's"
            f" {number(model.value)}: nothing shows that {conclusion}."
        )
    result = f"A regression on {words} reaches AUROC {number(baseline.value)}"
    if baseline.value >= model.value:
        return f"{result}, no less than the model's {number(model.value)}: nothing shows that {conclusion}."
    if name == "size" and baseline.value >= model.low:
        estimate = f"{number(model.value)} ({interval(model)})"
        return f"{result}, within the interval of the model's {estimate}: the model may have learned the size."
    return None


def _capitalize(words: str) -> str:
    return words[:1].upper() + words[1:]
