"""``softfree-lab study ablation``: variants x data sets x seeds, each trial a training run in its own process.

The study is a queue that continues after an interruption: finished trials are in ``cells.jsonl``, and an interrupted
one is resumed from its run directory. Trials are run seed by seed, so that an unfinished study is balanced.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from softfree.core.options import TrainOptions
from softfree.demo.phantoms import write_phantoms
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.training.checkpoints import folder_lock
from softfree.training.configuration import check_options
from softfree_lab.studies import baseline, peers  # noqa: F401  # peers registers its models
from softfree_lab.studies.children import Children
from softfree_lab.studies.folds import draw_folds
from softfree_lab.studies.options import AblationOptions
from softfree_lab.studies.study_record import fitted_trial, trained_trial, write_tables
from softfree_lab.studies.trials import Trial, TrialKey, check_same_options, read_trials, write_trials
from softfree_lab.studies.variants import Overrides, apply, choose_variants
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.files import read_yaml, write_atomically

# Options that do not affect the result of a trial.
WITHOUT_EFFECT = (
    "table",
    "image_root",
    "fold_file",
    "out",
    "cache",
    "num_workers",
    "progress",
    "accelerator",
    "devices",
    "nodes",
    "strategy",
)

SET_BY_STUDY = {
    "out": "because runs are written to the study's --out",
    "seed": "because the study sets it by --seeds",
    "fold_file": "because the study draws the folds: use --folds",
    "fold": "because the study sets it by --folds",
    "image_root": "because paths are relative to the folder of the table: put the table there",
}


@dataclass(frozen=True)
class Recipe:
    """One data set with its recipe: a YAML file of options of ``softfree train``.

    Attributes:
        name: Name of the file, without suffix.
        table: The table, or None for phantoms.
        phantoms: Arguments of :func:`~softfree.demo.phantoms.write_phantoms`.
        options: All other options.
        fold: The fold that is held out, from 1; 0 for the table's own split.
    """

    name: str
    table: Path | None
    phantoms: dict[str, Any]
    options: dict[str, Any]
    fold: int = 0


def study_ablation(options: AblationOptions, recipes: Sequence[str | Path]) -> str:
    """Train what is missing, then write ``cells.csv``, ``summary.csv``, ``summary.md`` and plots to ``out``.

    Returns:
        The summary as Markdown.

    Raises:
        UserError: An invalid option or recipe, before anything is trained; or failed trials, after all others are done.
    """
    preset = choose_variants(options.variants)
    if not options.seeds:
        raise UserError("--seeds is empty; expected at least one number")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected 1 or more")
    scales = tuple(sorted({*preset.scales, *options.scales, 1.0}))
    loaded = [read_recipe(Path(path), options.data) for path in recipes]
    for recipe in loaded:
        for overrides in preset.variants.values():
            settings = _trial_options(recipe, overrides, options.seeds[0])
            if options.folds and settings.get("patience") is not None:
                raise UserError(
                    f"recipe {recipe.name}: patience would choose the epoch on the held-out fold; remove it for --folds"
                )
    with folder_lock(options.out, "running a study"):
        loaded = [fold for recipe in loaded for fold in _split_into_folds(recipe, options)]
        wanted = {
            TrialKey(recipe.name, variant, seed, recipe.fold): (recipe, _trial_options(recipe, overrides, seed))
            for seed in options.seeds
            for recipe in loaded
            for variant, overrides in preset.variants.items()
        }
        return _study(options, loaded, wanted, list(preset.variants), scales)


def _split_into_folds(recipe: Recipe, options: AblationOptions) -> list[Recipe]:
    """Return the recipe for each fold, or as it is without folds."""
    if not options.folds:
        return [recipe]
    if recipe.table is None:
        raise UserError(f"--folds {options.folds}: recipe {recipe.name} has phantoms, which need no cross-validation")
    path = options.out / "folds" / f"{recipe.name}.json"
    draw_folds(recipe.table, recipe.options, options.folds, path)
    return [
        replace(recipe, options=recipe.options | {"fold_file": path, "fold": fold}, fold=fold)
        for fold in range(1, options.folds + 1)
    ]


def _study(
    options: AblationOptions,
    recipes: list[Recipe],
    wanted: dict[TrialKey, tuple[Recipe, dict[str, Any]]],
    variants: list[str],
    scales: tuple[float, ...],
) -> str:
    record = options.out / "cells.jsonl"
    trials = read_trials(record)
    for key, (_, settings) in wanted.items():
        if key in trials:
            check_same_options(trials[key], _relevant(settings), record)
    missing = [key for key in wanted if key not in trials or not _has_scales(trials[key], scales)]
    failed = _train_all(options, {key: wanted[key] for key in missing}, trials, scales)
    if options.baseline:
        variants += dict.fromkeys(baseline.name_of(recipe.options) for recipe in recipes)
        _add_baselines(options, recipes, trials)
    finished = {key: trials[key] for key in [*wanted, *_baseline_keys(options, recipes)] if key in trials}
    text = ""
    if finished:
        margin, count = options.margin, options.num_bootstrap
        text = write_tables(options.out, finished, variants, scales, margin=margin, num_bootstrap=count)
    if failed:
        first, reason = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(wanted)} trials failed, the others are kept; the first: {first}: {reason}"
        )
    return text


def read_recipe(path: Path, data: Path | None) -> Recipe:
    """Read a recipe; its table is relative to ``data`` or else to the folder of the recipe."""
    content = read_yaml(path, "recipe")
    if not isinstance(content, dict) or ("table" in content) == ("phantoms" in content):
        raise UserError(f"recipe {path}: expected options of softfree train, and either table or phantoms")
    known = [field.name for field in fields(TrainOptions)]
    for name in content:
        if name in SET_BY_STUDY:
            raise UserError(f"option in recipe {path}: {name} is not for recipes, {SET_BY_STUDY[name]}; remove it")
        if name not in (*known, "phantoms"):
            raise unknown_name(f"option in recipe {path}:", name, {*known, "phantoms"} - set(SET_BY_STUDY))
    phantoms = content.pop("phantoms", None) or {}
    known = [name for name in signature(write_phantoms).parameters if name != "folder"]
    if not isinstance(phantoms, dict) or not set(phantoms) <= set(known):
        raise UserError(f"recipe {path}: got phantoms {phantoms!r}: expected a mapping of some of {', '.join(known)}")
    table = (data or path.parent) / content.pop("table") if "table" in content else None
    if table is not None and not table.is_file():
        raise UserError(f"recipe {path}: there is no {table}; name the folder of the tables with --data")
    return Recipe(path.stem, table, phantoms, content)


def _trial_options(recipe: Recipe, overrides: Overrides, seed: int) -> dict[str, Any]:
    settings = apply(recipe.options, overrides) | {"seed": seed}
    try:
        check_options(TrainOptions(table=recipe.table or Path("phantoms.csv"), **settings))
    except TypeError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from None
    return settings | ({"phantoms": recipe.phantoms} if recipe.table is None else {})


def _relevant(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}


def _has_scales(trial: Trial, scales: tuple[float, ...]) -> bool:
    return all(f"{scale:g}" in trial.probabilities for scale in scales)


def _train_all(
    options: AblationOptions,
    missing: dict[TrialKey, tuple[Recipe, dict[str, Any]]],
    trials: dict[TrialKey, Trial],
    scales: tuple[float, ...],
) -> dict[TrialKey, str]:
    """Train and add to ``trials``; return the reasons of those that failed."""
    failed: dict[TrialKey, str] = {}
    tables = {key: _table(recipe, options.out) for key, (recipe, _) in missing.items()}
    bar = Progress(console=Console(stderr=True), disable=not options.progress)
    with bar, _stopping_pool(options.jobs) as pool, Children() as children:
        done = bar.add_task("Training", total=len(missing))
        running = {
            pool.submit(_train, options, key, tables[key], settings, children): key
            for key, (_, settings) in missing.items()
        }
        for future in as_completed(running):
            key = running[future]
            try:
                run = future.result()
                trials[key] = trained_trial(key, run, _relevant(missing[key][1]), scales)
            except UserError as error:
                failed[key] = str(error)
                continue
            finally:
                bar.advance(done)
            write_trials(options.out / "cells.jsonl", trials.values())
            if not options.keep:
                shutil.rmtree(run.folder)
    return failed


@contextmanager
def _stopping_pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool that starts nothing more when the block is left by an error or by Ctrl-C."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _baseline_keys(options: AblationOptions, recipes: list[Recipe]) -> list[TrialKey]:
    return [
        TrialKey(recipe.name, baseline.name_of(recipe.options), seed, recipe.fold)
        for recipe in recipes
        for seed in options.seeds
    ]


def _add_baselines(options: AblationOptions, recipes: list[Recipe], trials: dict[TrialKey, Trial]) -> None:
    """Record the logistic regression on small copies of the samples; it is the same for every seed."""
    for recipe in recipes:
        missing = [key for key in _baseline_keys(options, [recipe]) if key not in trials]
        if not missing:
            continue
        settings = TrainOptions(table=_table(recipe, options.out), **recipe.options)
        try:
            scores, cost = baseline.fit_baseline(settings)
        except UserError as error:
            print(f"{recipe.name} has no baseline: {error}", file=sys.stderr)
            continue
        for key in missing:
            trials[key] = fitted_trial(key, scores.task, {"1": scores}, cost, {})
    write_trials(options.out / "cells.jsonl", trials.values())


def _table(recipe: Recipe, out: Path) -> Path:
    if recipe.table is not None:
        return recipe.table
    folder = out / "images" / recipe.name
    table = folder / "phantoms.csv"
    return table if table.is_file() else write_phantoms(folder, **recipe.phantoms)


def _train(options: AblationOptions, key: TrialKey, table: Path, settings: dict[str, Any], children: Children) -> Run:
    """Train a trial in its own process, unless its run directory is already complete."""
    folder = options.out / "runs" / key.folder
    directory = RunDirectory(folder)
    if not directory.metrics.is_file():
        if directory.is_run():
            arguments = ["--resume", str(folder)]
        else:
            recipe = folder.with_name(f".{folder.name}.yaml")
            train_options = {name: value for name, value in settings.items() if name != "phantoms"}
            write_atomically(recipe, json.dumps(train_options | {"out": folder}, default=str))  # JSON is YAML
            arguments = ["--config", str(recipe), "--progress=false"]
        children.run(["train", str(table), *arguments], threads=max(1, (os.cpu_count() or 1) // options.jobs))
    recorded = directory.read_config()["options"]
    for name in _relevant(settings):
        if (
            name != "phantoms"
            and recorded.get(name) != settings[name]
            and str(recorded.get(name)) != str(settings[name])
        ):
            raise UserError(
                f"{folder} was trained with {name} {recorded.get(name)!r}, not {settings[name]!r}; delete it"
            )
    return Run.load(folder)
