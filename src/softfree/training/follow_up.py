"""What training takes from the times of a table: intervals, horizons, and what its loss cannot do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

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
from softfree_runtime.core.errors import UserError

FEW_OF_BATCH = 8
"""Samples of a batch below which a Cox loss compares very few."""


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
    if options.loss == "cox" and options.batch_size < 2:
        raise UserError(
            f"--batch-size {options.batch_size}: --loss cox compares the samples of a batch, and needs 2 or more,"
            " better 16; or leave out --loss cox"
        )


def with_intervals(table: Table, options: TrainOptions) -> Table:
    """Give the task of a table its time intervals; none for a Cox model.

    Raises:
        UserError: The training or validation rows have no event, or all at one time.
    """
    for split in ("train", "val"):
        targets = table.where(split).targets
        if split == "train":
            refuse_without_events(f"{options.table}, split train", targets)
        elif len(targets) and not len(event_times(targets)):
            raise UserError(
                f"{options.table} has no event in split {split}, so that no epoch can be judged; mark some rows, or"
                " remove the split column to have one drawn that shares the events"
            )
    if options.loss == "cox":
        return table
    cuts = tuple(map(float, options.cuts)) if options.cuts else quantile_cuts(table.where("train").targets)
    return replace(table, task=replace(table.task, cuts=cuts))


def horizons_of(table: Table, options: TrainOptions) -> list[float]:
    """Return the times at which survival is predicted.

    Raises:
        UserError: A time after the last event of the training rows, or after the last cut.
    """
    train = table.where("train").targets
    targets = train if len(train) else table.targets  # the plan of a study has no split
    end = table.task.cuts[-1] if table.task.cuts else float(event_times(targets).max())
    if options.horizons:
        return list(check_horizons(options.horizons, end, table.task.classes[0]))
    return list(quantile_horizons(targets, end))


def say_what_batches_change(options: TrainOptions) -> None:
    """Say what gradient accumulation and small batches do to a Cox loss."""
    if options.loss != "cox":
        return
    words = f"--loss cox compares only the {options.batch_size} samples of a batch"
    if options.grad_accum > 1:
        words += f"; --grad-accum {options.grad_accum} adds such comparisons, and does not make them larger"
    if options.batch_size < FEW_OF_BATCH:
        words += f"; fewer than {FEW_OF_BATCH} compare little: raise --batch-size, or use --loss hazard"
    console.print(words, style="yellow", highlight=False, soft_wrap=True)
