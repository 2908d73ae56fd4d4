"""What training takes from the times of a table: intervals, horizons, and what its loss cannot do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from softfree.core.options import TrainOptions
from softfree.core.progress import console
from softfree.data.follow_up import (
    check_horizons,
    event_times,
    quantile_cuts,
    quantile_horizons,
    refuse_without_events,
)
from softfree.data.table import Table
from softfree.data.target_file import TargetSpec, read_targets
from softfree.data.targets import tables_of
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import Targets
from softfree_runtime.core.task import Task

FEW_OF_BATCH = 8
"""Samples of a batch below which a Cox loss compares very few."""
Specs = Sequence[TargetSpec]


class TimeSettings(Protocol):
    """How survival is learned: the options of training, or what a file of targets says of one target."""

    @property
    def loss(self) -> str | None:
        """``cox``, or by default ``hazard``."""

    @property
    def cuts(self) -> Sequence[float] | None:
        """Ends of the time intervals; by default those of the events."""

    @property
    def horizons(self) -> Sequence[float] | None:
        """Times at which survival is predicted; by default quartiles of the events."""


def check_survival_options(options: TrainOptions) -> None:
    """Refuse options of survival that contradict each other, before anything is read.

    Raises:
        UserError: Names them.
    """
    if options.cuts is not None:
        if options.loss == "cox":
            raise UserError("--cuts is for --loss hazard: a Cox model has no time intervals; leave one of them out")
        if not options.cuts or any(not 0 <= low < high for low, high in pairwise([0, *options.cuts])):
            raise UserError(f"--cuts {options.cuts}: expected increasing times above 0, such as '[365, 730, 1826]'")
    _check_batch(options, options)


def check_survival_targets(options: TrainOptions) -> None:
    """Refuse a batch size that is too small for a target of the file of ``--targets``.

    Raises:
        UserError: Names the target; or the file cannot be read.
    """
    for name, spec in _specs(options.targets).items():
        with _named(name):
            _check_batch(spec, options)


def _check_batch(settings: TimeSettings, options: TrainOptions) -> None:
    if settings.loss == "cox" and options.batch_size < 2:
        raise UserError(
            f"--batch-size {options.batch_size}: the loss cox compares the samples of a batch, and needs 2 or more,"
            " better 16; or leave the loss out, which is then hazard"
        )


def with_intervals(table: Table, options: TrainOptions, specs: Specs = ()) -> Table:
    """Give a task of survival, or each target that is one, its time intervals; none for a Cox model.

    Those of a trained model stay as they are.

    Args:
        table: The table.
        options: Options of the training.
        specs: Several targets as a run keeps them, whose file may be gone; default: from the file.

    Raises:
        UserError: The training or validation rows have no event, or all at one time.
    """

    def chosen(rows: Table, settings: TimeSettings) -> Task:
        if not rows.task.cuts:
            _refuse_without_events(rows, options.table)
        return _with_cuts(rows, settings, options)

    return _each(table, options, chosen, specs)


def with_planned_intervals(table: Table, options: TrainOptions) -> Table:
    """Give each target that is survival the time intervals of all rows, before they have splits."""
    if not isinstance(table.task, Targets):
        return table
    return _each(table, options, lambda rows, settings: _with_cuts(rows, settings, options))


def _each(
    table: Table, options: TrainOptions, change: Callable[[Table, TimeSettings], Task], specs: Specs = ()
) -> Table:
    """Change the task of survival, or those of the targets that are."""
    if not isinstance(table.task, Targets):
        return replace(table, task=change(table, options)) if table.task.timed else table
    parts, named = dict(table.task.parts), {spec.name: spec for spec in specs} or _specs(options.targets)
    for name, rows in tables_of(table).items():
        if rows.task.timed and not rows.task.cuts and name in named:
            with _named(name):
                parts[name] = change(rows, named[name])
    return replace(table, task=Targets.of(parts))


def _with_cuts(rows: Table, settings: TimeSettings, options: TrainOptions) -> Task:
    if settings.loss == "cox":
        return rows.task
    cuts = tuple(map(float, settings.cuts)) if settings.cuts else quantile_cuts(_events_from(rows, options))
    return replace(rows.task, cuts=cuts)


def _events_from(rows: Table, options: TrainOptions) -> np.ndarray:
    """Return the targets that times are chosen from: of the training rows.

    Several targets in folds take all rows, so that the models of a cross-validation have the same times; those of a
    single target are in the plan of the study. Without training rows, as in a plan, all are taken, too.
    """
    train = rows.where("train").targets
    in_folds = options.targets is not None and options.fold_file is not None
    return rows.targets if in_folds or not len(train) else train


def _refuse_without_events(rows: Table, path: Path) -> None:
    for split in ("train", "val"):
        targets = rows.where(split).targets
        if split == "train":
            refuse_without_events(f"{path}, split train", targets)
        elif len(targets) and not len(event_times(targets)):
            raise UserError(
                f"{path} has no event in split {split}, so that no epoch can be judged; mark some rows, or remove the"
                " split column to have one drawn that shares the events"
            )


def time_settings(table: Table, options: TrainOptions) -> dict[str, Any]:
    """Return what a run keeps of survival: ``horizons``, of several targets by name; empty without survival.

    Raises:
        UserError: A time after the last event of the training rows, or after the last cut.
    """
    if not isinstance(table.task, Targets):
        return {"horizons": _horizons(table, options, options, "--horizons")} if table.task.timed else {}
    kept, specs = {}, _specs(options.targets)
    for name, rows in tables_of(table).items():
        if rows.task.timed and name in specs:  # a plan estimates times without the file
            with _named(name):
                kept[name] = {"horizons": _horizons(rows, specs[name], options, "horizons")}
    return kept


def _horizons(rows: Table, settings: TimeSettings, options: TrainOptions, what: str) -> list[float]:
    targets = _events_from(rows, options)
    end = rows.task.cuts[-1] if rows.task.cuts else float(event_times(targets).max())
    if settings.horizons:
        return list(check_horizons(settings.horizons, end, rows.task.classes[0], what))
    return list(quantile_horizons(targets, end))


def say_what_batches_change(options: TrainOptions) -> None:
    """Say what gradient accumulation and small batches do to a Cox loss."""
    if "cox" not in (options.loss, *(spec.loss for spec in _specs(options.targets).values())):
        return
    words = f"the loss cox compares only the {options.batch_size} samples of a batch"
    if options.grad_accum > 1:
        words += f"; --grad-accum {options.grad_accum} adds such comparisons, and does not make them larger"
    if options.batch_size < FEW_OF_BATCH:
        words += f"; fewer than {FEW_OF_BATCH} compare little: raise --batch-size, or use the loss hazard"
    console.print(words, style="yellow", highlight=False, soft_wrap=True)


def _specs(path: Path | None) -> dict[str, Any]:
    """Return the targets of a file by name; none without one."""
    return {} if path is None else {spec.name: spec for spec in read_targets(path)}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the target in errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"target {name!r}: {error}") from None
