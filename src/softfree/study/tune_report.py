"""The result of a search: its trials, the best options as YAML, and a page."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from rich.table import Table

from softfree.evaluation.comparison import TITLES
from softfree.evaluation.formatting import name_of, number, strict_json
from softfree.evaluation.metrics import lower_is_better
from softfree.evaluation.page import Cell, Drawing, Grid, Page, Section, write_page
from softfree.evaluation.plots.trials import scores_by_option, scores_by_trial
from softfree.reporting.terminal import console
from softfree.study.options import TuneOptions
from softfree.study.scores import StudyMetric, study_metric
from softfree_runtime.core.files import replacing, write_atomically

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SHOWN = 10  # trials on the terminal
OPTIMISTIC = (
    "The score of the best trial is optimistic: it is the best of several on the same validation rows. Only rows"
    " that no trial was evaluated on, such as the test rows, show how good these options are."
)


@dataclass(frozen=True)
class TuningResult:
    """A search for options.

    Attributes:
        best: Options of ``softfree train`` of the best trial, with those that all trials share; None without one.
        score: Its validation score by ``metric``, NaN without one.
        low: Lower bound of its 95 % interval; NaN over several folds.
        high: Upper bound.
        trials: One row per trial, in order: number, state, the metric, seconds, reason, and its options.
        options: Names of the options that were searched.
        folder: With ``best.yaml``, ``trials.csv`` and ``report.html``.
        metric: ``auroc``, of a regression ``mae``, of survival ``c_index``, of several targets ``score``.
    """

    best: dict[str, Any] | None
    score: float
    low: float
    high: float
    trials: pd.DataFrame
    options: tuple[str, ...]
    folder: Path
    metric: StudyMetric = "auroc"

    @property
    def file(self) -> Path:
        """The best options, for ``softfree train --config``."""
        return self.folder / "best.yaml"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; NaN becomes None."""
        trials = self.trials.astype(object).to_dict(orient="records")
        return strict_json({"best": self.best, self.metric: self.score, "low": self.low, "high": self.high,
                            "trials": trials, "folder": str(self.folder)})  # fmt: skip


def not_repeated(study: Study) -> list[FrozenTrial]:
    """Return the trials but interrupted ones that were, or will be, begun again."""
    repeated = {trial.user_attrs.get("again") for trial in study.trials}
    return [trial for trial in study.trials if trial.number not in repeated]


def result_of(study: Study, options: TuneOptions) -> TuningResult:
    """Gather the trials that have ended."""
    rows: list[dict[str, Any]] = []
    metric = study_metric(options)
    names: dict[str, None] = {}
    for trial in not_repeated(study):
        if not trial.state.is_finished():
            continue
        names |= dict.fromkeys(trial.params)
        seconds = math.nan if trial.duration is None else round(trial.duration.total_seconds(), 1)
        score = math.nan if trial.state.name != "COMPLETE" or trial.value is None else trial.value
        row = {"trial": trial.number, "state": STATES[trial.state.name], metric: score, "seconds": seconds}
        rows.append(row | {"reason": trial.user_attrs.get("reason", "")} | trial.params)
    frame = pd.DataFrame(rows, columns=["trial", "state", metric, "seconds", "reason", *names])
    if not frame[metric].notna().any():
        return TuningResult(None, math.nan, math.nan, math.nan, frame, tuple(names), options.out, metric)
    best = study.best_trial
    low, high = (math.nan if bound is None else bound for bound in best.user_attrs.get("interval", (None, None)))
    return TuningResult(
        dict(options.train) | best.params, float(best.values[0]), low, high, frame, tuple(names), options.out, metric
    )


STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}


def options_in_words(chosen: Mapping[str, Any]) -> str:
    """Return options as text, such as ``lr 0.0005, pool avg``."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in chosen.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_result(result: TuningResult) -> None:
    """Write ``trials.csv``, and with a completed trial ``best.yaml`` and ``report.html``."""
    with replacing(result.folder / "trials.csv") as temporary:
        result.trials.to_csv(temporary, index=False)
    if result.best is None:
        return
    title = TITLES[result.metric]
    header = f"# The best of {len(result.trials)} trials: validation {title} {result.score:.3f}, which is optimistic.\n"
    write_atomically(result.file, header + yaml.safe_dump(result.best, sort_keys=False))
    heading = name_of(result.metric)
    best = scores_by_trial(result.trials, result.metric, lower=lower_is_better(result.metric))
    drawings = [Drawing(f"{heading} by trial", best, "The line is the best so far.")]
    for name in result.options:
        drawings.append(Drawing(f"{heading} by {name}", scores_by_option(result.trials, name, result.metric)))
    page = Page(
        title="Search for options",
        paragraphs=[sentence(result), OPTIMISTIC],
        sections=[
            Section(title="Trials", drawings=drawings, table=_grid(result)),
            Section(title="Best options", paragraphs=[f"In {result.file.name}: {options_in_words(result.best)}."]),
        ],
        commands=[shlex.join(["softfree", *sys.argv[1:]])],
    )
    write_page(result.folder / "report.html", page)


def _sorted(result: TuningResult) -> pd.DataFrame:
    ascending = [lower_is_better(result.metric), True]
    return result.trials.sort_values([result.metric, "trial"], ascending=ascending, na_position="last")


def _grid(result: TuningResult) -> Grid:
    rows: list[list[Cell]] = []
    for row in _sorted(result).to_dict(orient="records"):
        text = [_shown(row[name]) for name in result.options]
        state = str(row["state"]) if not row["reason"] else f"{row['state']}: {row['reason']}"
        rows.append([(f"{row['trial']}", state), number(row[result.metric]), *text, f"{row['seconds']:.0f} s"])
    return Grid(["Trial", name_of(result.metric), *result.options, "Time"], rows)


def sentence(result: TuningResult) -> str:
    """Say which options were best."""
    interval = "" if math.isnan(result.low) else f" (95 % interval {number(result.low)} to {number(result.high)})"
    counts = result.trials["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return (
        f"The best validation {TITLES[result.metric]} of {len(result.trials)} trials ({states}) is"
        f" {number(result.score)}{interval}."
    )


def print_tuning(result: TuningResult) -> None:
    """Print the best trials and the next step."""
    table = Table(title="best trials", title_justify="left")
    for heading in ("trial", name_of(result.metric), *result.options):
        table.add_column(heading, justify="right")
    for row in _sorted(result).head(SHOWN).to_dict(orient="records"):
        table.add_row(str(row["trial"]), number(row[result.metric]), *(_shown(row[name]) for name in result.options))
    console.print(table)
    for text in (sentence(result), OPTIMISTIC):
        console.print(text, highlight=False, soft_wrap=True)
    console.print(f"Report: {result.folder / 'report.html'}", highlight=False)
    console.print(f"Train: softfree train TABLE --config {result.file}", highlight=False)
