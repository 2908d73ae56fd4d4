"""From a table to a cross-validated ensemble and its report."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.core.options import TrainOptions
from softfree.core.progress import console
from softfree.data.folds import Folds, assign_folds, read_folds, write_folds
from softfree.data.seen_rows import SeenRows
from softfree.data.split_file import write_split
from softfree.data.table import Table
from softfree.evaluation.subgroups import MAX_GROUPS, SITE
from softfree.inference.run import PART_OF, Run
from softfree.inference.run_directory import RunDirectory
from softfree.pretraining.options import PretrainOptions
from softfree.reporting.documents.write import write_documents
from softfree.reporting.evaluate import Evaluation
from softfree.reporting.facts import near_duplicates_in_words, table_facts
from softfree.reporting.options import EvaluateOptions, ReportOptions
from softfree.reporting.scoring import write_predictions
from softfree.reporting.targets import TargetEvaluations, evaluate_run
from softfree.study.members import member_options, pretrain_options, pretrained, train_members
from softfree.study.options import AutoOptions
from softfree.study.plan import make_plan
from softfree.study.plan_file import read_audit, read_estimate, read_plan, write_plan
from softfree.study.pooling import pool_predictions
from softfree.study.recipe import read_whole_table
from softfree.study.study_directory import MemberKey, StudyDirectory, member_keys
from softfree.study.targets import studies_of, write_joined_predictions
from softfree.training.checkpoints import folder_lock
from softfree.training.configuration import check_options
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import say
from softfree_runtime.core.targets import Targets


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        run: The ensemble of its members.
        evaluation: Of the held-out samples of the cross-validation.
        test: Of the ensemble on the fixed test rows; None if there are none.
    """

    run: Run
    evaluation: Evaluation | TargetEvaluations
    test: Evaluation | TargetEvaluations | None = None


def auto(path: Path, options: AutoOptions) -> StudyResult | None:
    """Plan a study, train its members, and leave a study directory with predictions, metrics and report.

    A study that was interrupted goes on where it was.

    Args:
        path: CSV or Parquet table, or a folder with one subfolder per class.
        options: All settings.

    Returns:
        The result; None if only the plan was requested.

    Raises:
        UserError: Anything that the user can fix; finished trainings are kept.
    """
    directory = StudyDirectory(options.out)
    if not directory.is_study_or_unused():
        raise UserError(f"--out {options.out} is not empty and has no plan.yaml of a study; choose another folder")
    table = read_whole_table(path, options)
    say(path, table.sentences)
    with folder_lock(directory.root, "running a study"):
        folds = _folds(table, options, directory)
        keys = list(member_keys(len(folds.names), len(folds.numbers), options.members))
        given = _given(options, path, keys[0])
        if not directory.plan.is_file():
            plan = make_plan(options, path, table, folds)
            write_folds(directory.folds, table, folds)
            write_plan(directory.plan, plan)
        console.print(directory.plan.read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)
        planned, pretraining = read_plan(directory.plan, table.digest)
        first = member_options(options, path, planned, keys[0])
        check_options(first)
        begun: tuple[TrainOptions, PretrainOptions | None] = (first, None)
        pretrain = None
        if pretraining is not None:
            begun = (first, pretrain_options(first, pretraining, directory.pretrained))
            pretrain = partial(_pretrained, directory, pretraining)
        _refuse_others(options, given, begun, directory.plan)
        if options.dry_run:
            return None
        members = train_members(options, path, planned, keys, pretrain)
        run = _write_ensemble(directory, members, table, folds)
        shutil.rmtree(directory.cache, ignore_errors=True)
        return _evaluate(run, options, table, bool((folds.numbers[0] < 0).any()))


def _given(options: AutoOptions, path: Path, key: MemberKey) -> tuple[TrainOptions, PretrainOptions | None]:
    """Return the options of a training and its pretraining as --train and --pretrain have them, without a plan."""
    train = member_options(options, path, options.train, key, "--train")
    return train, pretrain_options(train, options.pretrain, Path()) if options.pretrain else None


def _refuse_others(
    options: AutoOptions,
    given: tuple[TrainOptions, PretrainOptions | None],
    begun: tuple[TrainOptions, PretrainOptions | None],
    plan: Path,
) -> None:
    """Refuse values of --train and --pretrain that are not those of the plan, which may be older or edited."""
    flags = ("train", options.train), ("pretrain", options.pretrain)
    for (flag, names), new, old in zip(flags, given, begun, strict=True):
        for name in names:
            value, planned = getattr(new, name), getattr(old, name, None)
            if old is None or (value != planned and str(value) != str(planned)):
                has = f"{name} {planned}" if old is not None else f"no {flag}"
                raise UserError(
                    f"--{flag} says {name} {value}, but {plan} has {has}: leave it out, change {plan.name}, or use"
                    " another --out"
                )


def _pretrained(directory: StudyDirectory, planned: Mapping[str, Any], train: TrainOptions, key: MemberKey) -> Path:
    return pretrained(train, planned, directory.pretrained / key.name)


def _folds(table: Table, options: AutoOptions, directory: StudyDirectory) -> Folds:
    """Assign rows to folds, which must be those of a study that goes on."""
    folds = assign_folds(
        table,
        options.folds,
        repeats=options.repeats,
        by=options.folds_by,
        seed=options.seed,
        use_test=options.ignore_split,
    )
    if not directory.plan.is_file():
        return folds
    begun = read_folds(directory.folds)
    if begun.names != folds.names or not np.array_equal(begun.numbers, folds.numbers):
        raise UserError(
            f"{directory.root} was begun with other folds ({begun.made}), of another table or by other options: use the"
            " same again, or another --out"
        )
    return begun


def _write_ensemble(directory: StudyDirectory, members: Mapping[MemberKey, Run], table: Table, folds: Folds) -> Run:
    """Write the study as a run directory whose model is the ensemble of the members, and those of several targets."""
    frame = table.frame.assign(split=np.where(folds.numbers[0] >= 0, "val", "test"))
    table = replace(table, frame=frame, split_made=folds.made)
    plan = directory.plan
    copies = None
    if (pairs := near_duplicates(members, table, folds)) is not None:
        directory.write_near_duplicates(pairs)
        copies = near_duplicates_in_words(pairs, "fold")
    if not isinstance(table.task, Targets):
        return _write_members(directory, members, table, folds, plan, copies)
    for name, study in studies_of(members, table, folds).items():
        _write_members(RunDirectory(directory.target(name)), *study, plan, copies)
    config = _configuration(directory, members, dict.fromkeys(members, 1.0), table, plan)
    directory.write_config(config)
    write_split(directory.split, table)
    SeenRows.of(table.where("val")).write(directory.seen)
    directory.write_cost(_cost(members) | {"planned": read_estimate(plan)})
    write_joined_predictions(directory, table.task.classes)
    directory.write_digests()
    return Run.load(directory.root)


def _write_members(
    directory: RunDirectory,
    members: Mapping[MemberKey, Run],
    table: Table,
    folds: Folds,
    plan: Path,
    copies: str | None,
) -> Run:
    """Write a run directory whose model is the ensemble of members of one target.

    Args:
        directory: Where.
        members: The finished runs.
        table: Its rows, in the splits val and test.
        folds: Their folds.
        plan: The plan of the study.
        copies: A warning of nearly identical images, if there are any.
    """
    first = next(iter(members.values()))
    directory.root.mkdir(parents=True, exist_ok=True)
    held, inside = table.where("val"), folds.numbers[0] >= 0
    pooled = pool_predictions(members, held, replace(folds, numbers=folds.numbers[:, inside]))
    config = _configuration(directory, members, pooled.temperatures, table, plan)
    if copies is not None:
        config["table"]["copies"] = copies
    if (survival := pooled.calibration.survival) is not None:
        config["target"] = {"horizons": list(survival.horizons)}
    if (scale := pooled.calibration.scale) is not None:
        config["target"] = {"mean": scale.offset, "standard_deviation": 1 / pooled.calibration.temperature}
    directory.write_config(config)
    write_split(directory.split, table)
    SeenRows.of(held).write(directory.seen)
    shutil.copyfile(first.directory.baselines, directory.baselines)
    directory.write_calibration(pooled.calibration)
    run = Run.load(directory.root)
    write_predictions(directory.predictions, pooled.frame, run)
    directory.write_cost(_cost(members) | {"planned": read_estimate(plan)})
    directory.write_digests()
    return run


def near_duplicates(members: Mapping[MemberKey, Run], table: Table, folds: Folds) -> pd.DataFrame | None:
    """Join the pairs of nearly identical images of which a member trained on one and held out the other."""
    found = [pairs for run in members.values() if (pairs := run.directory.read_near_duplicates()) is not None]
    if not found:
        return None
    pairs = pd.concat(found)
    ordered = pd.DataFrame(np.sort(pairs[["row_a", "row_b"]].to_numpy(), axis=1), columns=["row_a", "row_b"])
    pairs = ordered.assign(similarity=pairs["similarity"].to_numpy()).drop_duplicates(["row_a", "row_b"])
    names = dict(zip(table.frame["row"], np.array([*folds.names, ""])[folds.numbers[0]], strict=True))
    for side in "ab":
        pairs[f"fold_{side}"] = pairs[f"row_{side}"].map(names)
    columns = ["row_a", "fold_a", "row_b", "fold_b", "similarity"]
    return pairs.sort_values(["similarity", "row_a"], ascending=[False, True], ignore_index=True)[columns]


def _configuration(
    directory: RunDirectory,
    members: Mapping[MemberKey, Run],
    temperatures: Mapping[MemberKey, float],
    table: Table,
    plan: Path,
) -> dict[str, Any]:
    own = {"fold_file": None, "fold": None, "repeat": 1, "out": str(directory.root), "cache": "auto"}
    first = next(iter(members.values()))
    return {name: value for name, value in first.config.items() if name != PART_OF} | {
        "command": shlex.join(["softfree", *sys.argv[1:]]),
        "members": [
            {
                "folder": os.path.relpath(run.folder, directory.root),
                "sha256": run.weights_digest(),
                "temperature": temperatures[key],
            }
            for key, run in members.items()
        ],
        "table": table_facts(table) | {"audit": read_audit(plan)},
        "options": first.config["options"] | own,
    }


def _cost(members: Mapping[MemberKey, Run]) -> dict[str, Any]:
    """Add up the cost of the members' trainings."""
    costs = [run.directory.read_cost() for run in members.values()]
    total = dict(costs[0])
    for name in ("seconds", "cpu_seconds", "parameters"):
        total[name] = sum(cost[name] for cost in costs)
    total["multiply_adds"] = None if total["multiply_adds"] is None else total["multiply_adds"] * len(costs)
    total["peak_bytes"] = max(cost["peak_bytes"] for cost in costs)
    total["resumed"] = any(cost["resumed"] for cost in costs)
    return total


def _evaluate(run: Run, options: AutoOptions, table: Table, has_test: bool) -> StudyResult:
    shared = EvaluateOptions(
        seed=options.seed,
        num_workers=options.num_workers,
        progress=options.progress,
        subgroups=[] if options.folds_by == SITE else _sites(table),
    )
    evaluation = evaluate_run(run, replace(shared, split="val"))
    test = evaluate_run(run, replace(shared, split="test")) if has_test else None
    write_documents(run, ReportOptions(docx=find_spec("docx") is not None))
    return StudyResult(run, evaluation, test)


def _sites(table: Table) -> list[str]:
    """Return the column of sites as a subgroup, if the table has one with two to twenty."""
    number = table.frame[SITE].nunique() if SITE in table.frame else 0
    return [SITE] if 2 <= number <= MAX_GROUPS else []
