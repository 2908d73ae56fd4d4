"""What is predicted: one class of several, with or without an order, several independent findings, or a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.validation import shown

TaskKind = Literal["binary", "multiclass", "ordinal", "multilabel", "regression"]

_NUMBERS = {
    "binary": (2, 2), "multiclass": (3, math.inf), "ordinal": (3, math.inf), "multilabel": (1, math.inf),
    "regression": (1, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A prediction task.

    Attributes:
        kind: ``binary`` (two mutually exclusive classes, the second is positive), ``multiclass``
            (three or more), ``ordinal`` (three or more that have an order, such as grades), ``multilabel``
            (independent findings, each present, absent or unknown) or ``regression`` (a number).
        classes: Their names; of an ordinal task from the lowest to the highest, of a regression that of the number.

    Targets are float32 ``(n, len(classes))`` of 0, 1 and NaN (unknown) for ``multilabel``, float64 ``(n,)`` finite
    numbers for ``regression``, else int64 ``(n,)`` class numbers. A regression has no probabilities. Others'
    probabilities are ``(n, len(classes))`` for all kinds; how they follow from the model's outputs is in
    :mod:`softfree_runtime.core.outputs`.
    """

    kind: TaskKind
    classes: tuple[str, ...]

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class applies (softmax), not any number of findings (sigmoid), nor a number."""
        return self.kind not in ("multilabel", "regression")

    @property
    def numeric(self) -> bool:
        """Whether a number is predicted, not classes or findings."""
        return self.kind == "regression"

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
        """Output columns with metrics of their own: the positive class of a binary task, else all classes."""
        return (1,) if self.kind == "binary" else tuple(range(len(self.classes)))


def refuse_numbers(task: Task, what: str) -> None:
    """Refuse a regression where only classes or findings make sense.

    Args:
        task: The task.
        what: What needs them, such as "softfree explain".

    Raises:
        UserError: It is a regression.
    """
    if task.numeric:
        raise UserError(f"{what} works on classes or findings; got a regression of {task.classes[0]!r}")


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
