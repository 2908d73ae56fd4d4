"""Several targets that one model predicts: what a single-target run does with outputs is done for each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task, check_task
from softfree_runtime.core.validation import shown

SEVERAL: Any = "several"  # in place of the kind of a single task
NAME = re.compile(r"\w[\w-]{0,63}")
"""Names of targets are also those of folders, and end at the first point of a column's name."""


class NamedTask(NamedTuple):
    """One of several targets."""

    name: str
    task: Task


@dataclass(frozen=True)
class Targets(Task):
    """Several targets of one model, whose outputs follow one another.

    It has no kind of its own: code for one task that asks for it gets an error that names the folders of the targets.
    The known and unknown targets of samples are float64 ``(n, columns)``, NaN where unknown: for each target in turn
    what :class:`Task` says: a column for each finding, one for the time and one for the event of survival, else one.

    Attributes:
        parts: The targets; ``classes`` has their names.
    """

    parts: tuple[NamedTask, ...] = ()

    @classmethod
    def of(cls, parts: Mapping[str, Task]) -> Targets:
        """Join targets by name."""
        return cls(SEVERAL, tuple(parts), parts=tuple(NamedTask(*part) for part in parts.items()))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs: ``<target>.<output>``."""
        return tuple(f"{name}.{output}" for name, task in self.parts for output in task.outputs)

    def output_slices(self) -> dict[str, slice]:
        """Return which of the model's outputs each target has."""
        return _slices({name: len(task.outputs) for name, task in self.parts})

    def target_slices(self) -> dict[str, slice]:
        """Return which columns of the samples' targets each target has."""
        return _slices({name: target_columns(task) for name, task in self.parts})

    def known(self, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Return which samples ``(n,)`` have a known value of each target, of findings at least one."""
        return {name: ~np.isnan(targets[:, columns]).all(axis=1) for name, columns in self.target_slices().items()}

    def _alone(self) -> NoReturn:
        raise UserError(
            f"this works on one target, and the run has several ({', '.join(self.classes)}): give it one of their"
            " folders, RUN/targets/NAME"
        )

    @property
    def exclusive(self) -> bool:
        """UserError: see the class."""
        self._alone()

    @property
    def numeric(self) -> bool:
        """UserError: see the class."""
        self._alone()

    @property
    def ordered(self) -> bool:
        """UserError: see the class."""
        self._alone()

    @property
    def by_threshold(self) -> bool:
        """UserError: see the class."""
        self._alone()

    @property
    def scored(self) -> tuple[int, ...]:
        """UserError: see the class."""
        self._alone()


def target_columns(task: Task) -> int:
    """Return the number of columns that a sample's target takes.

    One for each finding, two for time and event of survival; a class or a number is one.
    """
    return len(task.classes) if task.kind == "multilabel" else 2 if task.timed else 1


def single_targets(task: Task, targets: np.ndarray) -> Iterator[tuple[str, Task, np.ndarray]]:
    """Yield name, task and targets ``(n,)``, ``(n, K)`` or ``(n, 2)`` of each target; NaN where unknown.

    A single task has one without a name.
    """
    if not isinstance(task, Targets):
        yield "", task, targets
        return
    columns = task.target_slices()
    for name, part in task.parts:
        own = targets[:, columns[name]]
        yield name, part, own if own.shape[1] > 1 or part.kind == "multilabel" else own[:, 0]


def check_tasks(path: Path, content: Any) -> Task:
    """Create the task or targets that a file describes by ``kind`` and ``classes``, or by ``targets``.

    Raises:
        UserError: Names the file and the field.
    """
    if not isinstance(content, dict) or content.get("kind") != SEVERAL:
        return check_task(path, content)
    parts = content.get("targets")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: task.targets is {shown(parts)}; expected a list of targets")
    names = [part.get("name") for part in parts]
    if len(set(map(str, names))) < len(names) or not all(isinstance(n, str) and NAME.fullmatch(n) for n in names):
        raise UserError(f"{path}: the names of task.targets are {shown(names)}; expected different words")
    return Targets.of({part["name"]: check_task(path, part) for part in parts})


def _slices(lengths: Mapping[str, int]) -> dict[str, slice]:
    slices, first = {}, 0
    for name, length in lengths.items():
        slices[name] = slice(first, first + length)
        first += length
    return slices
