"""The trainings of a study, one after the other; finished ones are kept, and an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from softfree.core.choices import checked
from softfree.core.memory import release_memory
from softfree.core.options import TrainOptions
from softfree.core.progress import console
from softfree.data.labels import label_options
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.pretraining.loop import pretrain
from softfree.pretraining.loop import resume as resume_pretraining
from softfree.pretraining.options import MaskedOptions, PretrainOptions
from softfree.study.options import AutoOptions
from softfree.study.study_directory import MemberKey, StudyDirectory
from softfree.training.loop import resume, train
from softfree_runtime.core.errors import UserError

OWN = {field.name for field in fields(MaskedOptions)} - {
    "image_root", "seed", "model", "stem", "model_options", "attention_options", "precision"
}  # fmt: skip
"""Options of pretraining that are not those of the training that follows."""


def train_members(
    options: AutoOptions,
    path: Path,
    planned: Mapping[str, Any],
    keys: Sequence[MemberKey],
    pretrain: Callable[[TrainOptions, MemberKey], Path] | None = None,
) -> dict[MemberKey, Run]:
    """Train what is missing; return all members.

    Args:
        options: Of the study.
        path: The table.
        planned: Options of ``softfree train`` from the plan.
        keys: The members.
        pretrain: Makes, or finds, the weights that a training begins with; None to begin with random weights.

    Raises:
        UserError: A training cannot start or go on; finished ones are kept.
    """
    directory = StudyDirectory(options.out)
    members = {}
    for number, key in enumerate(keys, start=1):
        member = directory.member(key)
        run = RunDirectory(member)
        if not run.is_finished():
            release_memory()
            title = f"training {number} of {len(keys)}: {key.name.replace('_', ', ')}"
            console.print(title, highlight=False, style="bold")
            if run.is_unused():
                train_options = member_options(options, path, planned, key)
                if pretrain is not None:
                    train_options.weights = str(pretrain(train_options, key))
                train(train_options)
            else:
                resume(member, path, options.image_root)
        members[key] = Run.load(member)
        _check_options(members[key], planned, directory)
    return members


def member_options(
    options: AutoOptions, path: Path, planned: Mapping[str, Any], key: MemberKey, source: str | None = None
) -> TrainOptions:
    """Return the options of the training of a member.

    Args:
        options: Of the study.
        path: The table.
        planned: Options of ``softfree train``.
        key: The member.
        source: Where they are from, for errors; default: the plan.

    Raises:
        UserError: The plan has an option that softfree train does not know, a value that it does not take, or an option
            that the study sets.
    """
    directory = StudyDirectory(options.out)
    source = source or str(directory.plan)
    if planned.get("patience") is not None:
        raise UserError(f"{source}: patience would choose epochs on the held-out samples; leave it out")
    chosen = {
        **label_options(options),
        "image_root": options.image_root,
        "seed": options.seed + key.seed - 1,
        "fold_file": directory.folds,
        "fold": key.fold,
        "repeat": key.repeat,
        "cache": str(directory.cache),
        "num_workers": options.num_workers,
        "progress": options.progress,
        "out": directory.member(key),
    }
    if twice := sorted(chosen.keys() & planned.keys() - {"cache", "num_workers"}):
        raise UserError(f"{source}: {twice[0]} is set by the study; remove it")
    try:
        return checked(TrainOptions(table=path, **(chosen | dict(planned))))
    except TypeError as error:
        name = str(error).rpartition("argument ")[2]
        raise UserError(f"{source}: softfree train has no option {name}; see: softfree train --help") from None


def pretrain_options(train: TrainOptions, planned: Mapping[str, Any], out: Path) -> PretrainOptions:
    """Return the options of the pretraining of a member: those of its training, and what the plan says.

    Raises:
        UserError: The plan has an option that softfree pretrain does not know, a value that it does not take, or an
            option that the study sets; or the training begins with other weights.
    """
    if train.weights is not None:
        raise UserError(f"pretrain: the trainings begin with the weights {train.weights}; leave out one of the two")
    shared = {field.name for field in fields(PretrainOptions)} - OWN
    chosen = {name: getattr(train, name) for name in shared} | {"out": out}
    if twice := sorted(chosen.keys() & planned.keys()):
        raise UserError(f"pretrain: {twice[0]} is that of the trainings; remove it, or set it for train")
    if unknown := sorted(planned.keys() - OWN):
        raise UserError(f"pretrain: softfree pretrain has no option {unknown[0]}; see: softfree pretrain --help")
    return checked(PretrainOptions(**(chosen | dict(planned))))


def pretrained(train: TrainOptions, planned: Mapping[str, Any], out: Path) -> Path:
    """Pretrain on the images of a training, unless that is done; the fold that is held out is left out here, too.

    Args:
        train: Options of the training that follows.
        planned: Options of ``softfree pretrain``.
        out: Folder of the weights.

    Returns:
        ``out``.

    Raises:
        UserError: The pretraining cannot start or go on.
    """
    directory = RunDirectory(out)
    if directory.metrics.is_file():
        return out
    if directory.is_unused():
        return pretrain(pretrain_options(train, planned, out))
    return resume_pretraining(out)


def _check_options(run: Run, planned: Mapping[str, Any], directory: StudyDirectory) -> None:
    """Refuse a member that was trained by another plan."""
    for name, value in planned.items():
        trained = run.config["options"].get(name)
        if name == "lr" and value == "find":  # the run has the rate that was found
            continue
        if trained != value and str(trained) != str(value):
            raise UserError(
                f"{run.folder} was trained with {name} {trained}, but {directory.plan} says {value}: change the plan"
                " back, or start a new study with another --out"
            )
