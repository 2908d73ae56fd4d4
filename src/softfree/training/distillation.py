"""Distillation: learning from the outputs of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError

WEIGHTS_OF_TEACHER = "teacher_sha256"


class Teacher:
    """A frozen model.

    Deliberately not an nn.Module: Lightning must not train, checkpoint or average it.

    Args:
        model: Maps pixels (B, C, H, W) to logits (B, K).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    def __deepcopy__(self, _: dict[int, Any]) -> Teacher:
        return self  # weight averaging copies everything that the module holds

    def to(self, device: torch.device) -> Teacher:
        """Move the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of pixels (B, C, H, W)."""
        return self.model(images)


def open_teacher(folder: Path | None, config: dict[str, Any]) -> Teacher | None:
    """Load the teacher of a training run, if it has one.

    Args:
        folder: Its run directory.
        config: The student's configuration, which records the digest of the teacher's weights.

    Raises:
        UserError: It is not a finished run of one model, not the one that training began with, has another task, other
            classes or other preprocessing, or was trained on another split of the same table and may know the student's
            test images.
    """
    if folder is None:
        return None
    is_resumed = WEIGHTS_OF_TEACHER in config
    if is_resumed and not folder.exists():
        raise UserError(
            f"the teacher {folder} no longer exists; pass its new path: softfree train --resume RUN --teacher FOLDER"
        )
    run = Run.load(folder)
    if run.members:
        raise UserError(
            f"--teacher {folder} is a study, whose members were trained on each other's held-out rows: name one of"
            f" them, such as {run.members[0].folder}"
        )
    digest = run.directory.weights_digest()
    if config.setdefault(WEIGHTS_OF_TEACHER, digest) != digest:
        raise UserError(
            f"--teacher {folder} has other weights than the teacher that this run was started with; use that one, or"
            " start a new run with another --out"
        )
    for section, fix in (
        ("task", "train it on the same classes"),
        ("preprocessing", "use the same --preset, --size, --resize-mode and --channels for this run"),
    ):
        teacher_values = run.config[section]
        for name, value in config[section].items():
            if teacher_values.get(name) != value:
                raise UserError(
                    f"--teacher {folder} has {section} {name} {_in_words(teacher_values.get(name))}, this run "
                    f"{_in_words(value)}: {fix}, or choose another teacher"
                )
    if not is_resumed:
        _refuse_another_split(folder, run.config, config)
    return Teacher(run.model)


def _refuse_another_split(folder: Path, teacher: dict[str, Any], student: dict[str, Any]) -> None:
    """Refuse a teacher trained on another split of the same table: it may have seen the student's test images."""
    same_table = teacher.get("table", {}).get("sha256") == student["table"]["sha256"]
    reuses_split = student["options"].get("split_from") == str(folder.resolve())
    if same_table and not reuses_split and teacher["table"].get("split") != student["table"]["split"]:
        raise UserError(
            f"--teacher {folder} was trained on another split of this table, so it may have seen the test images: "
            f"use --split-from {folder}, or give the table a column split"
        )


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
