"""A trained run whose outputs another training learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError

WEIGHTS_OF_TEACHER = "teacher_sha256"


class Teacher:
    """A model that only answers.

    It is no module, so that a training that holds one neither trains, saves nor averages it.

    Args:
        model: pixels (B, C, H, W) to logits (B, K).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    def __deepcopy__(self, _: dict[int, Any]) -> Teacher:
        return self  # an average of weights copies all that a training holds

    def to(self, device: torch.device) -> Teacher:
        """Move the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of pixels (B, C, H, W)."""
        return self.model(images)


def open_teacher(folder: Path | None, config: dict[str, Any]) -> Teacher | None:
    """Load the teacher of a training, if it has one.

    Args:
        folder: its run directory.
        config: the student's configuration, which remembers the teacher's weights from now on.

    Raises:
        UserError: no finished run, another one than the training began with, or one that was made for another task,
            other classes, other pixels, or for a split of the same table in which it may have learned what the student
            is tested on.
    """
    if folder is None:
        return None
    begun = WEIGHTS_OF_TEACHER in config
    if begun and not folder.exists():
        raise UserError(
            f"{folder}, whose outputs this training learns, is not there any more; name it where it lies now: softfree"
            " train --resume RUN --teacher FOLDER"
        )
    run = Run.load(folder)
    digest = run.directory.weights_digest()
    if config.setdefault(WEIGHTS_OF_TEACHER, digest) != digest:
        raise UserError(
            f"--teacher {folder} has other weights than the one that this training began with; name that one, or start"
            " a new training with another --out"
        )
    for what, mend in (
        ("task", "train it on the same classes"),
        ("preprocessing", "give this training the same --preset, --size, --resize-mode and --channels"),
    ):
        theirs, ours = run.config[what], config[what]
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise UserError(
                    f"--teacher {folder} has {what} {name} {_in_words(theirs.get(name))}, this training "
                    f"{_in_words(value)}: {mend}, or choose another teacher"
                )
    if not begun:
        _refuse_another_split(folder, run.config, config)
    return Teacher(run.model)


def _refuse_another_split(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a teacher of the same table, split in another way: what tests the student may have trained it."""
    same = theirs.get("table", {}).get("sha256") == ours["table"]["sha256"]
    same = same and ours["options"].get("split_from") != str(folder.resolve())
    if same and theirs["table"].get("split") != ours["table"]["split"]:
        raise UserError(
            f"--teacher {folder} was trained on another split of this table, so that it may know the test images: "
            f"use --split-from {folder}, or give the table a column split"
        )


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
