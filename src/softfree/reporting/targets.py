"""Several targets of one run: a run directory for each, its part of the predictions, and one page over all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.table import Table
from softfree.data.targets import specs_of, tables_of, task_in_config, weights_of
from softfree.evaluation.formatting import interval, name_of, number, write_metrics
from softfree.evaluation.metrics import Metric, main_metric
from softfree.evaluation.page import Cell, Grid, Link, Page, Section, write_page
from softfree.inference.predict import answers
from softfree.inference.run import PART_OF, Run
from softfree.inference.run_directory import RunDirectory
from softfree.inference.unusual import is_unusual
from softfree.reporting.evaluate import Evaluation, check_evaluation, evaluate
from softfree.reporting.facts import table_facts
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.reader_study import restore_reader_study
from softfree.reporting.scoring import logit_columns, open_table
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.core.targets import Targets
from softfree_runtime.core.task import Task

SHARED = ("row", "split", "patient", "status", "reason", "distance")
"""Columns of predictions that do not belong to one target."""


@dataclass(frozen=True)
class TargetEvaluations:
    """Result of an evaluation of several targets.

    Attributes:
        targets: The evaluation of each, by name.
        left_out: Why a target has none, by name.
        report: Path of the page over all.
        split: The split that was evaluated.
    """

    targets: Mapping[str, Evaluation]
    left_out: Mapping[str, str]
    report: Path
    split: str

    @property
    def metrics(self) -> dict[str, Metric]:
        """All metrics, as ``<target>.<metric>``."""
        return {f"{name}.{key}": metric for name, one in self.targets.items() for key, metric in one.metrics.items()}


def evaluate_run(run: Run, options: EvaluateOptions) -> Evaluation | TargetEvaluations:
    """Evaluate a run of one target or of several; see :func:`softfree.reporting.evaluate.evaluate`."""
    return evaluate_targets(run, options) if isinstance(run.task, Targets) else evaluate(run, options)


def evaluate_targets(run: Run, options: EvaluateOptions) -> TargetEvaluations:
    """Evaluate each target of a run as a run of its own, in ``targets/NAME`` of the results.

    Raises:
        UserError: As of an evaluation of a single target, whose name is given.
    """
    for name in ("label", "event", "labels"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: {run.folder} has several targets in columns of their own; leave it out, or"
                            f" evaluate one of them: {run.directory.target(next(iter(run.parts)))}")  # fmt: skip
    own = {name: _options_of(name, options) for name in run.parts}
    for name, part in run.parts.items():  # before anything is written
        with _named(name):
            check_evaluation(part, own[name])
    open_table(run, options.table, options.image_root)
    evaluations = {}
    for name, part in run.parts.items():
        with _named(name):
            evaluations[name] = evaluate(part, own[name])
    is_test = bool(run.members) and options.split == "test"
    folder = options.out or (run.directory.test if is_test else run.folder)
    return write_overview(run, evaluations, folder, (options.table or run.table_path).name)


def _options_of(name: str, options: EvaluateOptions) -> EvaluateOptions:
    """Return the options of the evaluation of one target: in its folder, and compared with the same target."""
    out = None if options.out is None else RunDirectory(options.out).target(name)
    if (other := options.compare_with) is None:
        return replace(options, out=out)
    if name not in Run.load(other).parts:
        raise UserError(
            f"--compare-with {other}: it has no target {name!r}; compare targets by their folders, RUN/targets/NAME"
        )
    return replace(options, out=out, compare_with=RunDirectory(other).target(name))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the target in errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"target {name!r}: {error}") from None


def own_runs(run: Run) -> dict[str, Run]:
    """Return the run of each target; a run of one target is one without a name."""
    return run.parts or {"": run}


def write_target_runs(run: Run, table: Table) -> None:
    """Write the run directory of each target of a run: all but its results."""
    assert isinstance(run.task, Targets)
    history = run.directory.read_history()
    for name, part in tables_of(table).items():
        directory = RunDirectory(run.directory.target(name))
        directory.root.mkdir(parents=True, exist_ok=True)
        directory.write_config(_configuration(run, part, name))
        for path, copy in ((run.directory.split, directory.split), (run.directory.seen, directory.seen)):
            shutil.copyfile(path, copy)
        directory.write_cost(run.directory.read_cost())
        if history is not None:
            directory.write_history(_history(history, name))


def _configuration(run: Run, part: Table, name: str) -> dict[str, Any]:
    """Return the configuration of a run of one target with the outputs of a whole run."""
    spec = next(spec for spec in specs_of(run.config) if spec.name == name)
    kept = {key: value for key, value in run.config["table"].items() if key in ("unreadable", "partial", "audit")}
    config = run.config | {
        "task": task_in_config(part.task, None),
        "model": run.config["model"] | {"num_classes": len(part.task.outputs)},
        "table": table_facts(part) | kept,
        "options": run.config["options"] | spec.options() | {"out": str(run.directory.target(name))},
        PART_OF: {
            "folder": os.path.join("..", ".."),
            "sha256": run.directory.weights_digest(),
            "weights": weights_of(run.config),
        },
    }
    standard = config.pop("target", {}).get(name)
    return config if standard is None else config | {"target": standard}


def _history(history: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the curves of one target under the names of a run of one target."""
    ending = f"/{name}"
    own = {column: str(column).removesuffix(ending) for column in history if str(column).endswith(ending)}
    return history[["epoch", *(["lr"] if "lr" in history else []), *own]].rename(columns=own)


def part_of(frame: pd.DataFrame, task: Task, name: str) -> pd.DataFrame:
    """Return the predictions of one target, of the rows in which it is known, as a run of one target has them."""
    if not isinstance(task, Targets):
        return frame
    prefix, one = f"{name}.", dict(task.parts)[name]
    shared = [column for column in frame if column in SHARED]
    own = {column: str(column).removeprefix(prefix) for column in frame if str(column).startswith(prefix)}
    rows = frame[[*shared, *own]].rename(columns=own)
    truth = [column for column in rows if column == "target" or str(column).startswith("target_")]
    rows = rows[rows[truth].notna().any(axis=1)].reset_index(drop=True)
    return rows.astype({"target": np.int64}) if one.exclusive else rows


def write_all_predictions(run: Run, frame: pd.DataFrame) -> None:
    """Write the predictions of all targets as one table, with the calibrated columns of each."""
    assert isinstance(run.task, Targets)
    logits = [f"{name}.{column}" for name, task in run.task.parts for column in logit_columns(task)]
    complete = pd.concat([frame.reset_index(drop=True), answers(frame[logits].to_numpy(), run)], axis=1)
    if "distance" in frame:
        complete["unusual"] = is_unusual(complete["distance"])
    with replacing(run.directory.predictions) as temporary:
        complete.to_csv(temporary, index=False)


def write_overview(
    run: Run, evaluations: Mapping[str, Evaluation], folder: Path, table: str, left_out: Mapping[str, str] | None = None
) -> TargetEvaluations:
    """Write ``metrics.json`` and ``report.html`` over the evaluations of all targets."""
    directory, left_out = RunDirectory(folder), left_out or {}
    splits = {one.split: None for one in evaluations.values()}
    result = TargetEvaluations(evaluations, left_out, directory.report, next(iter(splits), "test"))
    about = {
        "split": result.split,
        "task": run.task.kind,
        "targets": {
            name: {"split": one.split, "n": len(one.scores), "main": main_metric(run.parts[name].task)}
            for name, one in evaluations.items()
        },
        "left_out": dict(left_out),
    }
    write_metrics(directory.metrics, result.metrics, about)
    write_page(directory.report, _overview(run, result, folder, table))
    restore_reader_study(directory)
    return result


def _overview(run: Run, result: TargetEvaluations, folder: Path, table: str) -> Page:
    rows: list[list[Cell]] = []
    for name, evaluation in result.targets.items():
        task, href = run.parts[name].task, Path(os.path.relpath(evaluation.report, folder)).as_posix()
        metric = main_metric(task)
        others = [key for key in HEADLINES[metric] if key in evaluation.metrics and key != metric]
        cells = [_cell(key, evaluation.metrics[key]) for key in (metric, *others[:2])]
        rows.append([Link(name, href, _in_words(task)), *cells, *[""] * (3 - len(cells)), str(len(evaluation.scores))])
    notes = [f"{name}: {reason}" for name, reason in result.left_out.items()]
    notes += [f"{name} was evaluated on split {one.split}." for name, one in result.targets.items()
              if one.split != result.split]  # fmt: skip
    what = (
        f"One model predicts {len(run.parts)} targets. Each is evaluated on the samples in which it is known; its name"
    )
    return Page(
        title=f"{run.model_name} on {table}, {len(run.parts)} targets",
        notice=run.notice,
        paragraphs=[f"{what} leads to its report."],
        sections=[
            Section(
                title="Targets",
                table=Grid(("Target", "Main result", "", "", "Samples"), rows),
                notes=[*notes, "Intervals are of 95 %; how each is computed is in the report of the target."],
            )
        ],
        commands=[run.config["command"]],
    )


HEADLINES = {
    "auroc": ("auroc", "quadratic_kappa", "mae", "balanced_accuracy"),
    "mae": ("mae", "r2", "bias"),
    "c_index": ("c_index", "integrated_brier"),
}
"""Metrics in the table of all targets, by the main metric of each."""


def _cell(name: str, metric: Metric) -> Cell:
    return f"{name_of(name)} {number(metric.value)}", interval(metric)


def _in_words(task: Task) -> str:
    if not task.by_class:
        return "a number" if task.numeric else "the time to an event"
    kind = {"multilabel": "findings", "ordinal": "ordered classes"}.get(task.kind, "classes")
    return f"{kind}: {', '.join(task.classes[:6])}" + (" ..." if len(task.classes) > 6 else "")
