"""How many patients are enough: the same recipe on growing parts of the training patients."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from softfree.core.options import TrainOptions
from softfree.core.progress import console
from softfree.data.folds import Folds, assign_folds, write_folds
from softfree.data.subsets import check_fractions, nested_folds, training_rows
from softfree.data.table import Table
from softfree.evaluation.learning_curve import fit, summarize
from softfree.evaluation.metrics import lower_is_better
from softfree.inference.run import Run
from softfree.study.learning_curve_report import LearningCurve, write_pages
from softfree.study.members import member_options, pretrain_options, pretrained, train_members
from softfree.study.options import AutoOptions, LearningCurveOptions
from softfree.study.recipe import check_begun, check_recipe, read_whole_table, refuse_other_content
from softfree.study.scores import StudyMetric, held_out, study_metric, targets_setting
from softfree.study.study_directory import MemberKey, StudyDirectory
from softfree.training.checkpoints import folder_lock
from softfree.training.configuration import check_options
from softfree_runtime.core.files import replacing, say, write_atomically

SETTINGS = "curve.yaml"


def learning_curve(path: Path, options: LearningCurveOptions) -> LearningCurve:
    """Train on growing parts of the patients and evaluate each on the same held-out folds.

    A learning curve that was interrupted goes on where it was.

    Args:
        path: CSV or Parquet table, or a folder with one subfolder per class.
        options: All settings.

    Raises:
        UserError: Anything that the user can fix; finished trainings are kept.
    """
    fractions = check_fractions(options.fractions)
    check_recipe(options.train, "learning-curve")
    settings = options.out / SETTINGS
    refuse_other_content(options.out, SETTINGS)
    table = read_whole_table(path, options)
    say(path, table.sentences)
    folds = assign_folds(
        table, options.folds, repeats=options.repeats, seed=options.seed, use_test=options.ignore_split
    )
    parts = {fraction: nested_folds(table, folds, fraction, options.seed) for fraction in fractions}
    with folder_lock(options.out, "measuring a learning curve"):
        check_begun(settings, _settings(options, fractions, table, folds))
        recipes = _recipes(options, parts)
        for fraction, recipe in recipes.items():
            first = member_options(_part_options(options, fraction), path, recipe, MemberKey(1), "--train")
            check_options(first)
        pretrain = None
        if options.pretrain:
            pretrain_options(first, options.pretrain, options.out)
            pretrain = partial(_pretrained, options)
            write_folds(_whole(options), table, nested_folds(table, folds, 1.0, options.seed))
        write_atomically(settings, yaml.safe_dump(_settings(options, fractions, table, folds), sort_keys=False))
        rows = []
        for fraction, part in parts.items():
            part_options = _part_options(options, fraction)
            count = np.mean([len(_patients(table, part, draw)) for draw in range(len(part.numbers))])
            console.print(f"{fraction:g} of the training patients: {count:.0f}", highlight=False, style="bold")
            write_folds(StudyDirectory(part_options.out).folds, table, part)
            keys = [MemberKey(draw % len(folds.names) + 1, draw + 1) for draw in range(len(part.numbers))]
            members = train_members(part_options, path, recipes[fraction], keys, pretrain)
            metric = study_metric(options)
            rows += [_row(fraction, part, table, key, run, metric) for key, run in members.items()]
        shutil.rmtree(options.out / "cache", ignore_errors=True)
        return _write(options, pd.DataFrame(rows), int((folds.numbers[0] >= 0).sum()))


def _settings(options: LearningCurveOptions, fractions: list[float], table: Table, folds: Folds) -> dict[str, Any]:
    return {
        "table_sha256": table.digest,
        "folds": folds.made,
        "fractions": fractions,
        "equal_steps": options.equal_steps,
        "seed": options.seed,
        "train": dict(options.train),
        "pretrain": dict(options.pretrain) or None,
        **targets_setting(options),
    }


def _whole(options: LearningCurveOptions) -> Path:
    """Return the file with the folds of each draw, all of whose images are pretrained on."""
    return options.out / "folds.json"


def _pretrained(options: LearningCurveOptions, train: TrainOptions, key: MemberKey) -> Path:
    """Pretrain for a draw: once for all parts of it, since labels are few and images many."""
    return pretrained(
        replace(train, fold_file=_whole(options)), options.pretrain, options.out / "pretrained" / key.name
    )


def _part_options(options: LearningCurveOptions, fraction: float) -> AutoOptions:
    shared = {field.name for field in fields(AutoOptions)} & {field.name for field in fields(LearningCurveOptions)}
    values = {name: getattr(options, name) for name in shared - {"out", "train", "pretrain"}}
    return AutoOptions(**values, out=options.out / f"part_{fraction:g}")


def _recipes(options: LearningCurveOptions, parts: Mapping[float, Folds]) -> dict[float, dict[str, Any]]:
    """Return the options of the trainings of each part: smaller ones have more epochs, for as many steps."""
    defaults = {field.name: field.default for field in fields(TrainOptions)}
    planned = {name: options.train.get(name, defaults[name]) for name in ("batch_size", "grad_accum", "epochs")}
    batch, epochs = planned["batch_size"] * planned["grad_accum"], planned["epochs"]
    rows = {
        fraction: np.mean([training_rows(part, draw).sum() for draw in range(len(part.numbers))])
        for fraction, part in parts.items()
    }
    steps = {fraction: max(1, int(count // max(1, batch))) for fraction, count in rows.items()}
    most = steps[max(steps)]
    shared = {"cache": str(options.out / "cache")} | dict(options.train)
    if not options.equal_steps:
        return dict.fromkeys(parts, shared)
    return {fraction: shared | {"epochs": max(epochs, round(epochs * most / steps[fraction]))} for fraction in parts}


def _patients(table: Table, part: Folds, draw: int) -> np.ndarray:
    return np.unique(table.frame["patient"].to_numpy()[training_rows(part, draw)])


def _row(fraction: float, part: Folds, table: Table, key: MemberKey, run: Run, metric: StudyMetric) -> dict[str, Any]:
    draw = key.repeat - 1
    return {
        "fraction": fraction,
        "fold": part.names[key.fold - 1],
        "repeat": draw // len(part.names) + 1,
        "patients": len(_patients(table, part, draw)),
        "samples": int(training_rows(part, draw).sum()),
        "epochs": run.config["options"]["epochs"],
        metric: held_out(run.directory, metric).value,
    }


def _write(options: LearningCurveOptions, trainings: pd.DataFrame, rows: int) -> LearningCurve:
    metric = study_metric(options)
    lower = lower_is_better(metric)
    with replacing(options.out / "curve.csv") as temporary:
        trainings.to_csv(temporary, index=False)
    by_draw = trainings.pivot(index=["repeat", "fold"], columns="fraction", values=metric)
    patients = trainings.groupby("fraction")["patients"].mean().to_numpy()
    scores = by_draw.to_numpy(float)
    curve = LearningCurve(
        trainings,
        patients,
        scores,
        summarize(patients, scores, lowest=-math.inf if metric == "score" else 0.0, highest=math.inf if lower else 1.0),
        fit(patients, scores, seed=options.seed, lower=lower),
        rows,
        options.out,
        metric,
    )
    write_pages(curve, options)
    return curve
