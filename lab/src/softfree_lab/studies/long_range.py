"""``softfree-lab study long-range``: the Long Range Arena, task x attention x seed, each training in its own process.

Trainings take hours, so the study may be stopped at any time: finished ones are in ``cells.jsonl``, which only grows,
and an interrupted one continues from its checkpoint.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from softfree.attention.registry import attention_class
from softfree.core.environment import describe_machine
from softfree.training.checkpoints import folder_lock
from softfree_lab.long_range import child, report
from softfree_lab.long_range.costs import SYMBOLS, measure_costs
from softfree_lab.long_range.generated import OutOfTimeError
from softfree_lab.long_range.tasks import PRESETS, TASKS, TaskData, load_task
from softfree_lab.long_range.training import Settings
from softfree_lab.long_range.trials import (
    Key,
    Trial,
    append_trial,
    check_same_settings,
    last_progress,
    read_trials,
)
from softfree_lab.records import write_csv, write_machine
from softfree_lab.studies.children import Children
from softfree_lab.studies.options import LongRangeOptions
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.files import write_atomically

POLL = 5.0  # seconds between looks at the progress of trainings
TOLD = 60.0  # seconds between lines about it


@dataclass(frozen=True)
class Wanted:
    """A training that was requested."""

    settings: Settings
    official: bool


def study_long_range(options: LongRangeOptions) -> str:
    """Train what is missing, measure the cost, and write tables and figures to ``out``.

    Returns:
        The tables as Markdown; after ``minutes``, with what was reached.

    Raises:
        UserError: An invalid option or missing files, before anything is trained; or failed trainings, after the rest.
    """
    _check(options)
    deadline = math.inf if options.minutes is None else time.time() + 60 * options.minutes
    log = _logger(options.progress)
    with folder_lock(options.out, "running a study"):
        record = options.out / "cells.jsonl"
        trials = read_trials(record)
        wanted = _wanted(options, deadline, log)
        for key, what in wanted.items():
            if key in trials:
                check_same_settings(trials[key], what.settings.to_dict(), record)
        with Children() as children:
            missing = {key: what for key, what in wanted.items() if key not in trials}
            failed = _train_all(options, missing, trials, children, deadline, log)
            costs = _costs(options, children, deadline, log)
        text = _write(options, wanted, trials, costs)
    if failed:
        first, reason = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(wanted)} trainings failed, the others are kept; the first: {first}: {reason}"
        )
    return text


def _check(options: LongRangeOptions) -> None:
    for task in options.tasks:
        if task not in TASKS:
            raise unknown_name("task of --tasks:", task, TASKS)
    for attention in options.attentions:
        attention_class(attention)
    if not options.tasks or not options.attentions or not options.seeds:
        raise UserError("--tasks, --attentions and --seeds: expected at least one each")
    for name in ("jobs", "features", "group_symbols"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    for name in ("steps_fraction", "samples_fraction"):
        if not 0 < getattr(options, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected more than 0 and at most 1")
    for name in ("minutes", "checkpoint_minutes"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected more than 0")
    for length in options.lengths:
        if not 1 <= length <= SYMBOLS:
            raise UserError(f"--lengths {length}: expected 1 to {SYMBOLS:,}")
    if options.data is not None and not options.data.is_dir():
        raise UserError(f"--data {options.data}: there is no such folder")


def _logger(progress: bool) -> Callable[[str], None]:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    return console.print if progress else lambda _: None


def _wanted(options: LongRangeOptions, deadline: float, log: Callable[[str], None]) -> dict[Key, Wanted]:
    """List the trainings, seed by seed; generate the samples that are missing, as far as time allows."""
    about: dict[str, TaskData] = {}
    for task in dict.fromkeys(options.tasks):
        try:
            data = load_task(
                task,
                data=options.data,
                cache=_cache(options),
                seed=options.data_seed,
                fraction=options.samples_fraction,
                log=log,
                deadline=deadline,
            )
        except OutOfTimeError:
            log(f"{task}: not all samples are generated; run the command again to continue")
            continue
        about[task] = data
    return {
        Key(task, attention, seed): Wanted(
            Settings(
                task=task,
                attention=attention,
                seed=seed,
                recipe=PRESETS[options.preset][task].scaled(options.steps_fraction),
                precision=options.precision,
                features=options.features,
                group_symbols=options.group_symbols,
                samples=len(data.train),
                data_seed=options.data_seed,
                source=data.source,
            ),
            data.official,
        )
        for seed in dict.fromkeys(options.seeds)
        for task, data in about.items()
        for attention in dict.fromkeys(options.attentions)
    }


def _cache(options: LongRangeOptions) -> Path:
    return options.cache or options.out / "data"


def _threads(options: LongRangeOptions) -> int:
    return options.threads or max(1, (os.cpu_count() or 1) // options.jobs)


def _train_all(
    options: LongRangeOptions,
    missing: dict[Key, Wanted],
    trials: dict[Key, Trial],
    children: Children,
    deadline: float,
    log: Callable[[str], None],
) -> dict[Key, str]:
    """Train and add to ``trials``; return the reasons of those that failed."""
    failed: dict[Key, str] = {}
    pool = ThreadPoolExecutor(options.jobs)
    try:
        running: dict[Future[Trial | None], Key] = {
            pool.submit(_train, options, key, what, children, deadline): key for key, what in missing.items()
        }
        told = time.monotonic()
        while running:
            done, _ = wait(running, timeout=POLL, return_when="FIRST_COMPLETED")
            for future in done:
                key = running.pop(future)
                try:
                    trial = future.result()
                except UserError as error:
                    failed[key] = str(error)
                    continue
                if trial is not None:
                    trials[key] = trial
                    append_trial(options.out / "cells.jsonl", trial)
                    log(f"{key}: test accuracy {100 * trial.correct / trial.tested:.2f} %")
            if time.monotonic() - told > TOLD:
                told = time.monotonic()
                for key in running.values():
                    if values := last_progress(_folder(options, key)):
                        log(f"{key}: step {values['step']:,} of {values['steps']:,}, best {100 * values['best']:.1f} %")
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _folder(options: LongRangeOptions, key: Key) -> Path:
    return options.out / "trainings" / key.folder


def _train(options: LongRangeOptions, key: Key, what: Wanted, children: Children, deadline: float) -> Trial | None:
    """Train in a child process; None if the deadline came first."""
    if time.time() > deadline:
        return None
    folder = _folder(options, key)
    spec = folder / "spec.json"
    child.write_spec(
        spec,
        what.settings,
        data=options.data and options.data.resolve(),
        cache=_cache(options).resolve(),
        fraction=options.samples_fraction,
        deadline=None if math.isinf(deadline) else deadline,
        checkpoint_seconds=60 * options.checkpoint_minutes,
        device=options.device,
    )
    if (result := child.read_result(folder, what.settings)) is None:
        children.run([str(spec)], _threads(options), child.MODULE)
        result = child.read_result(folder, what.settings)
    if result is None:
        return None
    machine = describe_machine(_threads(options))
    return Trial(settings=what.settings.to_dict(), official=what.official, machine=machine, **result)


def _costs(options: LongRangeOptions, children: Children, deadline: float, log: Callable[[str], None]) -> pd.DataFrame:
    return measure_costs(
        list(dict.fromkeys(options.attentions)),
        options.lengths,
        precision=options.precision,
        features=options.features,
        threads=_threads(options),
        folder=options.out / "costs",
        children=children,
        log=log,
        deadline=deadline,
    )


def _write(options: LongRangeOptions, wanted: dict[Key, Wanted], trials: dict[Key, Trial], costs: pd.DataFrame) -> str:
    """Write the tables and figures of the requested trainings, and return the tables."""
    finished = {key: trials[key] for key in wanted if key in trials}
    unfinished = [
        (key, values)
        for key in wanted
        if key not in trials and (values := last_progress(_folder(options, key))) is not None
    ]
    rows = report.trials_table(finished)
    summary = report.summarize(rows) if len(rows) else pd.DataFrame()
    text = report.to_markdown(summary, unfinished, costs, options.preset)
    waiting = len(wanted) - len(finished) - len(unfinished)
    if waiting:
        text += f"\n{waiting} of {len(wanted)} trainings have not begun; run the command again to continue.\n"
    machines = sorted({trial.machine for trial in finished.values()}) or [describe_machine(_threads(options))]
    write_atomically(options.out / "summary.md", text + "\n" + "".join(f"{machine}\n" for machine in machines))
    write_csv(options.out / "published.csv", report.published())
    write_machine(options.out, machines=machines)
    if finished:
        write_csv(options.out / "cells.csv", rows)
        write_csv(options.out / "summary.csv", summary)
        report.plot_curves(options.out / "curves.png", finished)
    if len(costs):
        write_csv(options.out / "costs.csv", costs)
        if "training_seconds" in costs:
            report.plot_costs(options.out / "costs.png", costs, summary)
    return text
