"""``softfree-lab study curves``: learning curves of one table side by side, on the same labels and held-out samples.

Such as one from random weights and one from weights pretrained without labels, next to a regression on thumbnails that
is fitted to the same labels. The curves are those of ``softfree learning-curve``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from softfree.core.options import TrainOptions
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.study.learning_curve import SETTINGS
from softfree.study.study_directory import StudyDirectory
from softfree.training.configuration import options_of
from softfree_lab.studies import baseline
from softfree_lab.studies.options import CurvesOptions
from softfree_lab.studies.study_record import fitted_trial, trained_trial, write_tables
from softfree_lab.studies.trials import Trial, TrialKey, write_trials
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml
from softfree_runtime.core.task import refuse_numbers

SHARED = ("table_sha256", "folds", "fractions", "seed")
"""Settings in which learning curves must agree, so that they share labels and held-out samples."""


def study_curves(options: CurvesOptions, curves: Sequence[str | Path]) -> str:
    """Compare finished learning curves, each named by its folder, with the first.

    Samples that are held out in the folds of a draw are pooled, and draws count as seeds do elsewhere.

    Args:
        options: All settings.
        curves: Folders of ``softfree learning-curve``.

    Returns:
        The summary as Markdown; it is also written to ``options.out``, with a record of all predictions.

    Raises:
        UserError: A folder holds no finished learning curve, or curves of other labels or samples.
    """
    folders = [Path(curve) for curve in curves]
    settings = [_settings(folder) for folder in folders]
    for folder, other in zip(folders[1:], settings[1:], strict=True):
        for name in SHARED:
            if other[name] != settings[0][name]:
                raise UserError(
                    f"{folder} has {name} {other[name]}, {folders[0]} has {settings[0][name]}; expected learning curves"
                    " of the same table, folds, fractions and seed"
                )
    variants = [folder.resolve().name for folder in folders]
    if len(set(variants)) < len(variants):
        raise UserError(f"two of {', '.join(variants)} have one name; rename a folder, since curves are named by it")
    trials: dict[TrialKey, Trial] = {}
    for folder, variant in zip(folders, variants, strict=True):
        for fraction in settings[0]["fractions"]:
            trials |= dict(_trained(folder, variant, fraction))
    if options.baseline:
        regressions = dict(_regressions(folders[0], settings[0]["fractions"], options.own_table))
        variants += dict.fromkeys(key.variant for key in regressions)
        trials |= regressions
    write_trials(options.out / "cells.jsonl", trials.values())
    return write_tables(options.out, trials, variants, margin=options.margin, num_bootstrap=options.num_bootstrap)


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / "curve.csv").is_file():
        raise UserError(f"{folder} holds no finished learning curve; run: softfree learning-curve TABLE --out {folder}")
    settings: dict[str, Any] = read_yaml(folder / SETTINGS, "settings")
    return settings


def _members(folder: Path, fraction: float) -> Iterator[tuple[TrialKey, Run]]:
    """Yield the trainings of a part, with the variant left open."""
    part = StudyDirectory(folder / f"part_{fraction:g}")
    for member in sorted(part.members.iterdir()):
        if not RunDirectory(member).is_finished():
            raise UserError(f"{member} is not finished; give softfree learning-curve its command again")
        run = Run.load(member)
        refuse_numbers(run.task, "a study of learning curves")
        fold, draw = run.config["options"]["fold"], run.config["options"]["repeat"]
        repeat = (draw - fold) // _number_of_folds(part)
        yield TrialKey(f"{fraction:g} of the labels", "", repeat, fold), run


def _number_of_folds(part: StudyDirectory) -> int:
    return len(read_yaml(part.folds, "folds")["names"])


def _trained(folder: Path, variant: str, fraction: float) -> Iterator[tuple[TrialKey, Trial]]:
    for key, run in _members(folder, fraction):
        named = key._replace(variant=variant)
        yield named, trained_trial(named, run, {"epochs": run.config["options"]["epochs"]})


def _regressions(folder: Path, fractions: Sequence[float], table: Path | None) -> Iterator[tuple[TrialKey, Trial]]:
    """Fit the regression to the labels of each training."""
    for fraction in fractions:
        for key, run in _members(folder, fraction):
            options: TrainOptions = options_of(run.config, run.folder)
            options = replace(options, weights=None, table=table or options.table)
            try:
                scores, cost = baseline.fit_baseline(options)
            except UserError as error:
                print(f"{key.data}, fold {key.fold} has no baseline: {error}", file=sys.stderr)
                continue
            named = key._replace(variant=baseline.name_of_options(options))
            yield named, fitted_trial(named, scores.task, {"1": scores}, cost, {})
