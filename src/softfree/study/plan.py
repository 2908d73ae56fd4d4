"""The plan of a study: each option of its trainings with the reason for it, and what it will take."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from softfree.core.options import TrainOptions
from softfree.data.folds import Folds
from softfree.data.table import Table
from softfree.planning.memory import memory
from softfree.planning.work import Work
from softfree.study.inspection import ImageFacts, inspect_images, kind_of, listed_counts
from softfree.study.options import AutoOptions
from softfree.study.timing import has_fast_bf16, time_training
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml, write_atomically

SIDES = (2048, 1536, 1024, 768, 512, 384, 256, 224, 128)
LARGEST_BY_DEFAULT = 512
MIN_STEPS = 1000  # of a training; networks that start from random weights have hardly learned before
EPOCHS = (30, 100)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Choice:
    """A value and the reason for it, in a sentence."""

    value: Any
    why: str


@dataclass(frozen=True)
class StudyPlan:
    """What a study does.

    Attributes:
        table_sha256: Digest of the table.
        facts: What is known about the data, in words.
        trainings: Number of trainings.
        choices: Options of ``softfree train`` by name.
        seconds: Estimated time of all trainings on this machine.
        memory: Estimated peak of memory in bytes; None if unknown.
    """

    table_sha256: str
    facts: tuple[str, ...]
    trainings: int
    choices: dict[str, Choice]
    seconds: float
    memory: int | None

    @property
    def values(self) -> dict[str, Any]:
        """The options without their reasons."""
        return {name: choice.value for name, choice in self.choices.items()}


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
    budget = None if options.budget is None else parse_duration(options.budget)
    used = table.take((folds.numbers[0] >= 0).nonzero()[0])
    trainings = len(folds.names) * len(folds.numbers) * options.members
    rows = len(used.frame) * (len(folds.names) - 1) // len(folds.names)
    facts = list(listed_counts(used))
    if kind_of(used) == "volume":
        choices = _volume_choices()
        images = None
    else:
        images = inspect_images(used, seed=options.seed, progress=options.progress)
        facts += _in_words(images)
        choices = _image_choices(images)
    choices |= {name: Choice(value, "Set by --train.") for name, value in options.train.items()}
    drafts = [choices]
    if images is not None and "size" not in choices:
        drafts = [choices | {"size": Choice(side, _why_side(side, images, budget))} for side in _sides(images, options)]
    drafts = [_schedule(draft, rows, options) for draft in drafts]
    if budget is not None:
        drafts = _within(budget, drafts, path, used, trainings, rows)
    for draft in drafts:
        train = _train_options(path, draft)
        seconds = _seconds(train, used, trainings, rows)
        if budget is None or seconds <= budget:
            return StudyPlan(table.digest, tuple(facts), trainings, draft, seconds, _memory(train, images))
    side = f" at {train.size} pixels" if images is not None else ""
    raise UserError(
        f"--budget {options.budget}: the smallest plan, {trainings} trainings{side}, takes about {in_words(seconds)} on"
        " this machine; allow more, or use fewer folds"
    )


def _train_options(path: Path, draft: Mapping[str, Choice]) -> TrainOptions:
    try:
        return TrainOptions(table=path, **{name: choice.value for name, choice in draft.items()})
    except TypeError as error:
        name = str(error).rpartition("argument ")[2]
        raise UserError(f"--train: softfree train has no option {name}; see: softfree train --help") from None


def _seconds(train: TrainOptions, table: Table, trainings: int, rows: int) -> float:
    """Estimate the seconds of all trainings by timing a few steps."""
    timing = time_training(train, table)
    return trainings * timing.training(rows, len(table.frame) - rows, train) + timing.reading(len(table.frame))


def _within(
    budget: float, drafts: list[dict[str, Choice]], path: Path, table: Table, trainings: int, rows: int
) -> list[dict[str, Choice]]:
    """Leave out the largest sides, by a time that grows with the pixels from that of the smallest side."""
    smallest = _train_options(path, drafts[-1])
    seconds = _seconds(smallest, table, trainings, rows)
    sides = [_train_options(path, draft).size for draft in drafts]
    fitting = [
        draft for draft, side in zip(drafts, sides, strict=True) if seconds * (side / smallest.size) ** 2 <= budget
    ]
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


def _volume_choices() -> dict[str, Choice]:
    return {
        "model": Choice("seqnorm_vit3d_nano", "The smallest model of volumes, which are few as a rule."),
        "modality": Choice("mr", "The scaling for MR; for CT set it to ct, and the window."),
    }


def _sides(images: ImageFacts, options: AutoOptions) -> list[int]:
    """Return sides to try, the largest first: up to the images' own with a budget, else up to the default's."""
    native = max(SIDES[-1], -(-images.sides // 16) * 16)
    most = native if options.budget else min(native, LARGEST_BY_DEFAULT)
    return sorted({min(most, SIDES[0]), *(side for side in SIDES if side < most)}, reverse=True)


def _why_side(side: int, images: ImageFacts, budget: float | None) -> str:
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
    size = planned["size"].value if "size" in planned else 0
    batch = 16 if size <= 512 else 8 if size <= 1024 else 4
    planned.setdefault("batch_size", Choice(batch, "As much as large images leave memory for, and 16 for small ones."))
    steps = max(1, rows // planned["batch_size"].value)
    low, high = EPOCHS
    epochs = min(high, max(low, -(-MIN_STEPS // steps)))
    why = f"{steps} steps an epoch; random weights need about {MIN_STEPS:,} steps, in {low} to {high} epochs."
    planned.setdefault("epochs", Choice(epochs, why))
    fast = has_fast_bf16()
    why = "This machine multiplies bfloat16 faster." if fast else "This machine has no fast bfloat16."
    planned.setdefault("precision", Choice("bf16" if fast else "fp32", why))
    return planned


def _memory(train: TrainOptions, images: ImageFacts | None) -> int | None:
    """Return the planned peak of a training in bytes."""
    if images is None:
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
    )
    return memory(work).total


def _in_words(images: ImageFacts) -> list[str]:
    words = [f"longer side {images.sides} pixels (median of {images.read} images)"]
    if images.unreadable:
        words.append(f"{images.unreadable} of {images.read + images.unreadable} images could not be read")
    return words


def parse_duration(text: str) -> float:
    """Return seconds of a duration such as ``90m``, ``2h`` or ``1d``.

    Raises:
        UserError: Another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--budget {text}: expected a number and a unit, such as 90m, 2h or 1d")
    return float(match[1]) * UNITS[match[2]]


def in_words(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 90:
        return f"{math.ceil(seconds)} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def write_plan(path: Path, plan: StudyPlan) -> None:
    """Write ``plan.yaml``, with the reasons as comments."""
    lines = [
        "# Plan of a study. Values under train may be changed before the first training, and options of softfree train",
        "# added; then run the same command again.",
        "",
        "# " + "; ".join(plan.facts) + ".",
        f"table_sha256: {plan.table_sha256}",
        "",
        "train:",
    ]
    for name, choice in plan.choices.items():
        lines += [f"  # {line}" for line in textwrap.wrap(choice.why, 110)]
        lines.append("  " + yaml.safe_dump({name: choice.value}, default_flow_style=True, width=1000).strip()[1:-1])
    lines += ["", f"# {plan.trainings} trainings, about {in_words(plan.seconds)} on this machine."]
    lines += ["estimate:", f"  seconds: {plan.seconds:.0f}"]
    if plan.memory is not None:
        lines += [f"  memory_bytes: {plan.memory}"]
    write_atomically(path, "\n".join(lines) + "\n")


def read_plan(path: Path, digest: str) -> dict[str, Any]:
    """Read the options of the trainings from ``plan.yaml``.

    Raises:
        UserError: It is damaged, or belongs to another table.
    """
    content = read_yaml(path, "plan")
    if not isinstance(content, dict) or not isinstance(content.get("train"), dict):
        raise UserError(f"{path}: expected a mapping with table_sha256 and train, as softfree auto wrote it")
    if content.get("table_sha256") != digest:
        raise UserError(f"{path} was made for another version of the table; start a new study with another --out")
    return content["train"]
