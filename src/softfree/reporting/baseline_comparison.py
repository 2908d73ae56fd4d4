"""Comparison of a run with the simpler models that were fitted with it, on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from softfree.evaluation.comparison import Comparison, compare
from softfree.evaluation.formatting import interval, metrics_to_json, number
from softfree.evaluation.metrics import FEWEST_RESAMPLES, Metric, draws_of_auroc, measure
from softfree.evaluation.report import Compared
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree.reporting.baselines import column_of, read_baselines

MOST_RESAMPLES = 500
MOST_RESAMPLED = 35_000_000  # probabilities that the resamples go over


@dataclass(frozen=True)
class BaselineComparison:
    """How the baselines compare with a run.

    Attributes:
        rows: One per baseline, with the difference between the model and it.
        warnings: Evidence against the model, one sentence each.
        notes: Why a baseline is missing or measured on fewer samples, one sentence each.
    """

    rows: tuple[Compared, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        found = {}
        for row in self.rows:
            assert row.comparison is not None
            difference = asdict(row.comparison.differences["auroc"])
            plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in difference.items()}
            found[row.name] = metrics_to_json({"auroc": row.auroc})["auroc"] | {"model_minus_baseline": plain}
        return {"models": found, "warnings": list(self.warnings), "notes": list(self.notes)}


def compare_with_baselines(
    run: Run, frame: pd.DataFrame, scores: Scores, metrics: Mapping[str, Metric], *, seed: int, num_bootstrap: int
) -> BaselineComparison:
    """Measure the baselines whose probabilities are in ``frame``, on its readable rows.

    Args:
        run: The run.
        frame: Predictions, as in ``predictions.csv``.
        scores: Of its readable rows.
        metrics: Of these.
        seed: Of the bootstrap.
        num_bootstrap: Number of resamples.
    """
    known = read_baselines(run.directory.baselines)
    if known is None:
        return BaselineComparison()
    rows, warnings, notes = [], [], [f"{_capital(sentence)}." for sentence in known.missing]
    measured: dict[int, _Measured] = {}  # the run, by how many samples it is measured on
    for name, regression in known.fitted.items():
        found = _scores(frame, scores, name, run)
        if found is None:
            notes.append(f"None on {regression.words} here: all samples are streamed.")
            continue
        theirs, ours = found
        if len(theirs) < len(scores):
            of = f"{len(theirs)} of {len(scores)} samples; the others are streamed"
            notes.append(f"{_capital(regression.words)}: {of}.")
        own = measured.setdefault(len(ours), _Measured(ours, seed, num_bootstrap))
        other = _Measured(theirs, seed, num_bootstrap)
        rows.append(Compared(regression.words, other.auroc, own.against(other)))
        if warning := _warning(name, regression.words, other.auroc, metrics["auroc"] if ours is scores else own.auroc):
            warnings.append(warning)
    return BaselineComparison(tuple(rows), tuple(warnings), tuple(notes))


class _Measured:
    """Scores with their resamples, which are drawn once.

    There are fewer resamples than for the run's own metrics, so that baselines do not take longer than these.
    """

    def __init__(self, scores: Scores, seed: int, num_bootstrap: int) -> None:
        number = max(FEWEST_RESAMPLES, MOST_RESAMPLED // max(1, scores.probabilities.size))
        self.how: dict[str, int] = {"seed": seed, "num_bootstrap": min(num_bootstrap, MOST_RESAMPLES, number)}
        self.scores = scores

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        return draws_of_auroc(self.scores, **self.how)

    @cached_property
    def auroc(self) -> Metric:
        return measure(self.scores, None, only="auroc", draws=self.draws, **self.how)["auroc"]

    def against(self, other: _Measured) -> Comparison:
        both = self.draws, other.draws
        return compare(self.scores, other.scores, only="auroc", draws=both, **self.how)  # type: ignore[arg-type]


def _scores(frame: pd.DataFrame, scores: Scores, name: str, run: Run) -> tuple[Scores, Scores] | None:
    """Scores of a baseline and of the run, on the samples that both have; None without any."""
    columns = [column_of(name, class_name) for class_name in run.task.classes]
    if not set(columns) <= set(frame.columns):
        return None
    chances = frame.loc[frame["status"] == "ok", columns].to_numpy(float)
    both = ~np.isnan(chances).any(axis=1)
    if not both.any():
        return None
    ours = scores if both.all() else scores.subset(both)
    return Scores(run.task, chances[both], ours.targets, ours.patients), ours


def _warning(name: str, words: str, theirs: Metric, ours: Metric) -> str | None:
    result = f"A regression on {words} reaches AUROC {number(theirs.value)}"
    if theirs.value >= ours.value:
        return f"{result}, no less than the model's {number(ours.value)}: nothing shows that the model learned more."
    if name == "size" and theirs.value >= ours.low:
        within = f"{number(ours.value)} ({interval(ours)})"
        return f"{result}, within the interval of the model's {within}: the model may have learned the size."
    return None


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
