"""The plan of a study: each option of its trainings with the reason for it, and what it will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np

from softfree.core.options import TrainOptions
from softfree.data.folds import Folds
from softfree.data.follow_up import event_times, quantile_cuts, quantile_horizons
from softfree.data.modalities.registry import modality_of
from softfree.data.samples import image_positions, single_images
from softfree.data.table import Table
from softfree.models.registry import IMAGE_MODELS
from softfree.planning.memory import training_peak
from softfree.planning.work import Work
from softfree.study.inspection import (
    ImageFacts,
    VolumeFacts,
    audit_in_words,
    inspect_images,
    inspect_volumes,
    kind_of,
    listed_counts,
)
from softfree.study.members import member_options, pretrain_options
from softfree.study.options import AutoOptions
from softfree.study.plan_file import Choice, StudyPlan, busy_in_words, in_words, parse_duration
from softfree.study.study_directory import MemberKey
from softfree.study.timing import busy_cores, has_fast_bf16, time_pretraining, time_training
from softfree.training.configuration import check_options
from softfree.training.follow_up import with_planned_intervals
from softfree.training.modality import create_preprocessing
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.cases import CASE

SIDES = (2048, 1536, 1024, 768, 512, 384, 256, 224, 128)
LARGEST_BY_DEFAULT = 512
COARSER = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # spacings of volumes to try, relative to their own
MOST_VOXELS = 1 << 24
MOST_VOXELS_BY_DEFAULT = 1 << 20
MOST_OF_DISK = 0.8  # share of the free space that preprocessed samples may take
PATCH = (4, 8, 8)  # voxels of a token: slices, rows, columns
MIN_STEPS = 1000  # of a training; networks that start from random weights have hardly learned before
MIN_STEPS_OF_EPOCH = 10
EPOCHS = (30, 100)
DEFAULTS = {
    "lr": "The default of softfree train; 'find' measures one before each training.",
    "grad_accum": "Each batch is a step; raise it, and lower batch_size, if memory is short.",
    "pool": "Sees both diffuse findings and those on few of many tokens.",
    "augment": "Samples are changed at random as suits their kind, so that few teach more.",
    "stream": "Only samples that do not fit in memory are processed in chunks, with the same result.",
}
"""Reasons for options of softfree train that a plan leaves as they are."""


def make_plan(options: AutoOptions, path: Path, table: Table, folds: Folds) -> StudyPlan:
    """Look at the samples and this machine, and choose the options of the trainings.

    Args:
        options: Of the study; those of ``train`` are taken as they are.
        path: The table's path.
        table: Its rows.
        folds: Their folds.

    Raises:
        UserError: Samples that cannot be planned, or a budget that no plan fits.
    """
    busy = busy_cores()
    budget = None if options.budget is None else parse_duration(options.budget)
    used = table.take((folds.numbers[0] >= 0).nonzero()[0])
    trainings = len(folds.names) * len(folds.numbers) * options.members
    rows = len(used.frame) * (len(folds.names) - 1) // len(folds.names)
    images_used = single_images(used)
    if kind_of(images_used) == "volume":
        volumes = inspect_volumes(images_used, seed=options.seed, progress=options.progress)
        facts, choices, sizes = _volumes_in_words(volumes), _volume_choices(volumes), _grids(volumes, options)
    else:
        images = inspect_images(images_used, seed=options.seed, progress=options.progress)
        facts, choices, sizes = _in_words(images), _image_choices(images), _sides(images, options)
    facts = [*listed_counts(used), *facts]
    audited = audit_in_words(table, folds, num_workers=options.num_workers, progress=options.progress)
    if table.task.timed:
        choices |= _time_choices(used, options)
    used = with_planned_intervals(used, TrainOptions(table=path, targets=options.targets))
    choices |= {name: Choice(value, "Set by --train.") for name, value in options.train.items()}
    if "cuts" in choices:
        used = replace(used, task=replace(used.task, cuts=tuple(choices["cuts"].value)))
    drafts = [_schedule(size | choices, rows, options) for size in sizes]
    _check(options, path, drafts[0])
    if budget is not None:
        drafts = _within(budget, drafts, path, options.pretrain, used, trainings, rows)
    for draft in drafts:
        train = _train_options(path, draft)
        seconds = _seconds(train, options.pretrain, used, trainings, rows)
        if budget is None or seconds <= budget:
            _check(options, path, draft)
            draft |= _cache(train, used, options)
            memory = _memory(train, table)
            return StudyPlan(
                table.digest,
                tuple(facts),
                trainings,
                draft,
                seconds,
                memory,
                busy=busy,
                audited=tuple(audited),
                pretraining=options.pretrain,
            )
    raise UserError(
        f"--budget {options.budget}: the smallest plan, {trainings} trainings {_size_in_words(train)}, takes about"
        f" {in_words(seconds)} on this machine{busy_in_words(busy)}; allow more, or use fewer folds"
    )


def _size_in_words(train: TrainOptions) -> str:
    if modality_of(train).name == "volume":
        return f"on {' x '.join(map(str, train.shape))} voxels"
    return f"at {train.size} pixels"


def _inputs(train: TrainOptions) -> int:
    """Return the number of pixels or voxels of a sample."""
    return math.prod(train.shape) if modality_of(train).name == "volume" else train.size**2


def _train_options(path: Path, draft: Mapping[str, Choice]) -> TrainOptions:
    try:
        return TrainOptions(table=path, **{name: choice.value for name, choice in draft.items()})
    except TypeError as error:
        name = str(error).rpartition("argument ")[2]
        raise UserError(f"--train: softfree train has no option {name}; see: softfree train --help") from None


def _check(options: AutoOptions, path: Path, draft: Mapping[str, Choice]) -> None:
    """Refuse options of ``--train`` that do not fit together, or do not fit what is planned."""
    planned = {name: choice.value for name, choice in draft.items()}
    check_options(member_options(options, path, planned, MemberKey(1), "--train"))


def _seconds(train: TrainOptions, pretraining: Mapping[str, Any], table: Table, trainings: int, rows: int) -> float:
    """Estimate the seconds of all trainings, and of a pretraining before each, by timing a few steps."""
    timing = time_training(train, table)
    each = timing.training(rows, len(table.frame) - rows, train)
    if pretraining:
        images = single_images(table)
        per_sample = len(images.frame) / len(table.frame)
        each += time_pretraining(pretrain_options(train, pretraining, Path()), images, round(rows * per_sample))
    return trainings * each + timing.reading(len(table.frame))


def _within(
    budget: float,
    drafts: list[dict[str, Choice]],
    path: Path,
    pretraining: Mapping[str, Any],
    table: Table,
    trainings: int,
    rows: int,
) -> list[dict[str, Choice]]:
    """Leave out the largest samples, by a time that grows with their pixels from that of the smallest."""
    options = [_train_options(path, draft) for draft in drafts]
    seconds = _seconds(options[-1], pretraining, table, trainings, rows)
    per_input = seconds / _inputs(options[-1])
    fitting = [draft for draft, train in zip(drafts, options, strict=True) if per_input * _inputs(train) <= budget]
    return fitting or drafts[-1:]


def _image_choices(images: ImageFacts) -> dict[str, Choice]:
    share = f"{images.color:.0%}".replace("%", " %")
    if images.color < 0.5:
        preset = Choice("radiograph", f"{share} of the images have colors: they are read as gray, each standardized.")
    elif images.oriented:
        preset = Choice("photo", f"{share} of the images have colors, and up, down, left and right differ in them.")
    else:
        why = "of the images have colors, and no direction differs from another in them: they may be turned freely."
        preset = Choice("microscopy", f"{share} {why}")
    return {"preset": preset, "model": Choice("seqnorm_vit_tiny_patch16", "The default of softfree train.")}


def _time_choices(table: Table, options: AutoOptions) -> dict[str, Choice]:
    """Choose the intervals and horizons of survival, which all trainings share."""
    cuts = options.train.get("cuts") or list(quantile_cuts(table.targets))
    end = cuts[-1] if options.train.get("loss") != "cox" else float(event_times(table.targets).max())
    horizons = list(quantile_horizons(table.targets, end))
    chosen = {"horizons": Choice(horizons, "Quartiles of the times of all events: survival is predicted there.")}
    if options.train.get("loss") == "cox":
        return chosen
    why = "Ends of time intervals with about equal numbers of events; all trainings must have the same."
    return chosen | {"cuts": Choice(cuts, why)}


def _volume_choices(volumes: VolumeFacts) -> dict[str, Choice]:
    share = f"{volumes.ct:.0%}".replace("%", " %")
    if volumes.ct > 0.5:
        modality = Choice("ct", f"{share} of the volumes have Hounsfield units; a narrower window may show more.")
    else:
        modality = Choice("mr", f"{share} of the volumes have Hounsfield units: each volume is standardized.")
    return {
        "modality": modality,
        "model": Choice("seqnorm_vit3d_nano", "The smallest model of volumes, which are few as a rule."),
    }


def _grids(volumes: VolumeFacts, options: AutoOptions) -> list[dict[str, Choice]]:
    """Return spacings and shapes to try, the finest first."""
    if options.train.keys() & {"shape", "spacing"}:
        return [{}]
    most = MOST_VOXELS if options.budget else MOST_VOXELS_BY_DEFAULT
    grids = []
    for factor in COARSER:
        spacing = [round(step * factor, 4) for step in volumes.spacing]
        sides = zip(volumes.extent, spacing, PATCH, strict=True)
        shape = [max(2, math.ceil(side / step / patch - 1e-6)) * patch for side, step, patch in sides]
        why = "The median of the volumes: nothing is lost."
        if factor > 1:
            why = f"{factor:g} times the median of the volumes, so that they fit the budget, or {most:,} voxels."
        grid = {
            "spacing": Choice(spacing, f"Slices, rows, columns in millimeters. {why}"),
            "shape": Choice(shape, "Slices, rows and columns, in whole patches, that 95 % of the volumes fit into."),
        }
        if math.prod(shape) <= most or factor == COARSER[-1]:
            grids.append(grid)
    return grids


def _volumes_in_words(volumes: VolumeFacts) -> list[str]:
    spacing, extent = (" x ".join(f"{value:.3g}" for value in values) for values in (volumes.spacing, volumes.extent))
    words = [f"voxels of {spacing} mm (median of {volumes.read} volumes); 95 % fit into {extent} mm"]
    return words + _unreadable_in_words(volumes.unreadable, volumes.read, "volumes")


def _sides(images: ImageFacts, options: AutoOptions) -> list[dict[str, Choice]]:
    """Return sides to try, the largest first: up to the images' own with a budget, else up to the default's."""
    if "size" in options.train:
        return [{}]
    native = max(SIDES[-1], -(-images.sides // 16) * 16)
    most = native if options.budget else min(native, LARGEST_BY_DEFAULT)
    sides = sorted({min(most, SIDES[0]), *(side for side in SIDES if side < most)}, reverse=True)
    return [{"size": Choice(side, _why_side(side, images, options.budget))} for side in sides]


def _why_side(side: int, images: ImageFacts, budget: str | None) -> str:
    if side >= images.sides:
        return f"Half of the images have at most {images.sides} pixels on their longer side: nothing is lost."
    if budget is None:
        return (
            f"The images are larger ({images.sides} pixels); small findings may need more: give the study a --budget."
        )
    return f"The largest side whose trainings fit the budget; the images have {images.sides} pixels."


def _schedule(choices: Mapping[str, Choice], rows: int, options: AutoOptions) -> dict[str, Choice]:
    """Add batch size, epochs and precision, where they are not set."""
    planned = dict(choices)
    planned.setdefault("batch_size", _batch_size(planned, rows))
    steps = max(1, rows // planned["batch_size"].value)
    low, high = EPOCHS
    epochs = min(high, max(low, -(-MIN_STEPS // steps)))
    why = f"{steps} steps an epoch; random weights need about {MIN_STEPS:,} steps, in {low} to {high} epochs."
    planned.setdefault("epochs", Choice(epochs, why))
    fast = has_fast_bf16()
    why = "This machine multiplies bfloat16 faster." if fast else "This machine has no fast bfloat16."
    planned.setdefault("precision", Choice("bf16" if fast else "fp32", why))
    for name, why in DEFAULTS.items():
        planned.setdefault(name, Choice(getattr(TrainOptions, name), why))
    return planned


def _cache(train: TrainOptions, table: Table, options: AutoOptions) -> dict[str, Choice]:
    """Choose a cache in memory, or none, if the disk has no space for all preprocessed samples."""
    size = create_preprocessing(train, table.sources).sample_bytes()
    if "cache" in options.train or size is None:
        return {}
    needed, free = size * len(table.frame), disk_usage(_existing(options.out)).free
    if needed < MOST_OF_DISK * free:
        return {}
    sizes = f"need {needed / 2**30:.1f} GiB, and the disk has {free / 2**30:.1f} GiB left"
    why = f"The preprocessed samples {sizes}: they are"
    return {"cache": Choice("auto", f"{why} kept in memory if it is large enough, and read again otherwise.")}


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _batch_size(choices: Mapping[str, Choice], rows: int) -> Choice:
    size = choices["size"].value if "size" in choices else 0
    most = 16 if size <= 512 else 8 if size <= 1024 else 4
    batch = next((batch for batch in (16, 8, 4) if batch <= most and rows // batch >= MIN_STEPS_OF_EPOCH), min(4, most))
    if batch < most:
        return Choice(batch, f"So that {rows} samples make {rows // batch} steps an epoch.")
    return Choice(batch, "As much as large images leave memory for, and 16 for small ones.")


def _memory(train: TrainOptions, table: Table) -> int | None:
    """Return the planned peak of a training in bytes; None for volumes, unlike views and models without a formula.

    Cases count as the largest of the table.
    """
    if modality_of(train).name != "image" or train.model not in IMAGE_MODELS or train.views is not None:
        return None
    work = Work(
        model=train.model,
        size=train.size,
        channels=1 if train.preset == "radiograph" else 3,
        batch_size=train.batch_size,
        precision=train.precision,
        stem=train.stem,
        pool=train.pool,
        mlp_chunk=train.mlp_chunk,
        images=int(np.bincount(image_positions(table)).max()) if CASE in table.frame else None,
        grad_checkpointing=train.grad_checkpointing,
    )
    return training_peak(work)


def _in_words(images: ImageFacts) -> list[str]:
    words = [f"longer side {images.sides} pixels (median of {images.read} images)"]
    return words + _unreadable_in_words(images.unreadable, images.read, "images")


def _unreadable_in_words(unreadable: int, read: int, samples: str) -> list[str]:
    return [f"{unreadable} of {read + unreadable} {samples} could not be read"] if unreadable else []
