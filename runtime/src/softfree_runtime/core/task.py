"""What is predicted: a class, with or without an order, several independent findings, a number, or time to an event."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.validation import shown

TaskKind = Literal["binary", "multiclass", "ordinal", "multilabel", "regression", "survival"]

_NUMBERS = {
    "binary": (2, 2), "multiclass": (3, math.inf), "ordinal": (3, math.inf), "multilabel": (1, math.inf),
    "regression": (1, 1), "survival": (1, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A prediction task.

    Attributes:
        kind: ``binary`` (two mutually exclusive classes, the second is positive), ``multiclass``
            (three or more), ``ordinal`` (three or more that have an order, such as grades), ``multilabel``
            (independent findings, each present, absent or unknown), ``regression`` (a number) or ``survival`` (the time
            to an event, which some samples have not had when their observation ends: they are censored).
        classes: Their names; of an ordinal task from the lowest to the highest, of a regression that of the number, of
            survival that of the time.
        cuts: Of survival by hazards in time intervals: their ends, in the unit of the time, increasing; empty for a
            model of one hazard ratio, and for other kinds.

    Targets are float32 ``(n, len(classes))`` of 0, 1 and NaN (unknown) for ``multilabel``, float64 ``(n,)`` finite
    numbers for ``regression``, float64 ``(n, 2)`` times and events (1, or 0 for censored) for ``survival``, else int64
    ``(n,)`` class numbers. Regression and survival have no probabilities of classes. Others' probabilities are
    ``(n, len(classes))`` for all kinds; how they follow from the model's outputs is in
    :mod:`softfree_runtime.core.outputs`.
    """

    kind: TaskKind
    classes: tuple[str, ...]
    cuts: tuple[float, ...] = ()

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class applies (softmax), not any number of findings (sigmoid), nor a number."""
        return self.kind not in ("multilabel", "regression", "survival")

    @property
    def numeric(self) -> bool:
        """Whether a number is predicted, not classes or findings."""
        return self.kind == "regression"

    @property
    def timed(self) -> bool:
        """Whether the time to an event is predicted."""
        return self.kind == "survival"

    @property
    def by_class(self) -> bool:
        """Whether classes or findings are predicted, which have probabilities."""
        return not (self.numeric or self.timed)

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
        """Names of the model's outputs: the classes, the cuts between ordered ones, or hazards of time intervals."""
        if self.timed:
            return tuple(f"hazard_{number + 1}" for number in range(len(self.cuts))) or ("log_hazard",)
        return tuple(f"above_{name}" for name in self.classes[:-1]) if self.ordered else self.classes

    @property
    def scored(self) -> tuple[int, ...]:
        """Output columns with metrics of their own: the positive class of a binary task, else all classes."""
        return (1,) if self.kind == "binary" else tuple(range(len(self.classes)))


def refuse_numbers(task: Task, what: str) -> None:
    """Refuse a regression or survival where only classes or findings make sense.

    Args:
        task: The task.
        what: What needs them, such as "softfree convert".

    Raises:
        UserError: It is one of these.
    """
    if not task.by_class:
        got = f"survival by {task.classes[0]!r}" if task.timed else f"a regression of {task.classes[0]!r}"
        raise UserError(f"{what} works on classes or findings; got {got}")


def refuse_times(task: Task, what: str) -> None:
    """Refuse survival where it makes no sense, or is not supported.

    Raises:
        UserError: It is survival.
    """
    if task.timed:
        raise UserError(f"{what} does not work on survival; got the time {task.classes[0]!r}")


def check_task(path: Path, task: Any) -> Task:
    """Create the task that a file describes by ``kind``, ``classes`` and, of survival, ``cuts``.

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
    return Task(task["kind"], tuple(names), _check_cuts(path, task["kind"], task.get("cuts") or []))


def _check_cuts(path: Path, kind: TaskKind, cuts: Any) -> tuple[float, ...]:
    numbers = [cut for cut in cuts if isinstance(cut, int | float) and math.isfinite(cut)] if _listed(cuts) else []
    increasing = all(low < high for low, high in pairwise([0, *numbers]))
    if not _listed(cuts) or len(numbers) != len(cuts) or not increasing or (numbers and kind != "survival"):
        raise UserError(f"{path}: task.cuts is {shown(cuts)}; expected increasing times above 0, for survival only")
    return tuple(map(float, numbers))


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple)
