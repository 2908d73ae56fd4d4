"""The classification task: one class of several, with or without an order, or several independent findings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.validation import shown

TaskKind = Literal["binary", "multiclass", "ordinal", "multilabel"]

_NUMBERS = {"binary": (2, 2), "multiclass": (3, math.inf), "ordinal": (3, math.inf), "multilabel": (1, math.inf)}


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        kind: ``binary`` (two mutually exclusive classes, the second is positive), ``multiclass``
            (three or more), ``ordinal`` (three or more that have an order, such as grades) or ``multilabel``
            (independent findings, each present, absent or unknown).
        classes: Their names; of an ordinal task from the lowest to the highest.

    Targets are float32 ``(n, len(classes))`` of 0, 1 and NaN (unknown) for ``multilabel``, else int64 ``(n,)`` class
    numbers. Probabilities are ``(n, len(classes))`` for all kinds; how they follow from the model's outputs is in
    :mod:`softfree_runtime.core.outputs`.
    """

    kind: TaskKind
    classes: tuple[str, ...]

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class applies (softmax), not any number of findings (sigmoid)."""
        return self.kind != "multilabel"

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order, so that a distance between them has a meaning."""
        return self.kind == "ordinal"

    @property
    def by_threshold(self) -> bool:
        """Whether a class is predicted from a threshold of its probability on; else one of three or more is chosen."""
        return self.kind in ("binary", "multilabel")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs: the classes, or of an ordinal task the cuts between them."""
        return tuple(f"above_{name}" for name in self.classes[:-1]) if self.ordered else self.classes

    @property
    def scored(self) -> tuple[int, ...]:
        """Output columns with metrics of their own: the positive class of a binary task, else all."""
        return (1,) if self.kind == "binary" else tuple(range(len(self.classes)))


def check_task(path: Path, task: Any) -> Task:
    """Create the task that a file describes by ``kind`` and ``classes``.

    Raises:
        UserError: Names the file and the field.
    """
    if not isinstance(task, dict) or task.get("kind") not in get_args(TaskKind):
        got = task.get("kind") if isinstance(task, dict) else task
        raise UserError(f"{path}: task.kind is {shown(got)}; expected {' or '.join(get_args(TaskKind))}")
    classes = task.get("classes")
    least, most = _NUMBERS[task["kind"]]
    names = [name for name in classes if isinstance(name, str) and name] if isinstance(classes, list) else []
    if names != classes or len(set(names)) != len(names) or not least <= len(names) <= most:
        raise UserError(f"{path}: task.classes is {shown(classes)}; expected different names, as {task['kind']} needs")
    return Task(task["kind"], tuple(names))
