"""Conformal sets: the classes that are plausible for a sample, by comparing its probabilities with stored minima."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task
from softfree_runtime.core.validation import check_fields, shown


@dataclass(frozen=True)
class ConformalSets:
    """The minimum probability at which a class is plausible.

    Attributes:
        coverage: Share of new samples of each class whose set contains it, such as 0.9.
        present: Minimum probability of each class, or of the presence of each finding; 0 if there were too few
            patients to choose one, so that the class is in every set.
        absent: Minimum probability of the absence of each finding; empty for exclusive classes.
    """

    coverage: float
    present: dict[str, float]
    absent: dict[str, float] = field(default_factory=dict)

    def plausible(self, probabilities: np.ndarray, task: Task) -> np.ndarray:
        """Return which classes are plausible.

        Args:
            probabilities: Calibrated, (n, K).
            task: The task.

        Returns:
            Boolean (n, K) for exclusive classes, of ordered ones without gaps (Lu et al., MICCAI 2022); (n, K, 2) for
            findings: whether absence and presence are plausible.
        """
        present = probabilities >= [self.present[name] for name in task.classes]
        if task.ordered:  # a grade between two plausible ones is plausible, which only adds to the coverage
            upwards, downwards = (np.logical_or.accumulate(part, axis=1) for part in (present, present[:, ::-1]))
            return upwards & downwards[:, ::-1]
        if task.exclusive:
            return present
        return np.stack([1 - probabilities >= [self.absent[name] for name in task.classes], present], axis=2)

    def columns(self, probabilities: np.ndarray, task: Task) -> dict[str, object]:
        """Return the columns of one sample with calibrated probabilities (K,).

        ``set`` is a JSON list of the plausible classes; findings have ``set_<finding>`` instead: present, absent or
        uncertain. ``abstain`` tells whether there is not exactly one plausible class, or a finding is uncertain.
        """
        plausible = self.plausible(probabilities[None], task)[0]
        if task.exclusive:
            names = [name for name, inside in zip(task.classes, plausible, strict=True) if inside]
            return {"set": json.dumps(names, ensure_ascii=False), "abstain": len(names) != 1}
        states = ["uncertain" if absent == present else "present" if present else "absent"
                  for absent, present in plausible]  # fmt: skip
        columns: dict[str, object] = {f"set_{name}": state for name, state in zip(task.classes, states, strict=True)}
        return columns | {"abstain": "uncertain" in states}

    def empty_columns(self, task: Task) -> dict[str, object]:
        """Return the same columns for a sample without prediction."""
        names = ["set"] if task.exclusive else [f"set_{name}" for name in task.classes]
        return dict.fromkeys(names, "") | {"abstain": None}


def check_sets(path: Path, content: Any, task: Task | None, fix: str) -> ConformalSets | None:
    """Create the sets that a file describes; None if it has none.

    Args:
        path: The file, for messages.
        content: Value read from JSON.
        task: Checks that there is a minimum for each of its classes.
        fix: How to fix the file, for messages.

    Raises:
        UserError: Names the file and the field.
    """
    if content is None:
        return None
    sets = ConformalSets(**check_fields(path, "sets", content, ConformalSets, fix=fix))
    minima = [*sets.present.items(), *sets.absent.items()]
    if not 0 < sets.coverage < 1 or any(not _is_probability(value) for _, value in minima):
        wrong = next((value for _, value in minima if not _is_probability(value)), sets.coverage)
        raise UserError(f"{path}: sets has {shown(wrong)}; expected a coverage and probabilities, 0 to 1; {fix}")
    if task is not None:
        for name, known in (("present", sets.present), ("absent", {} if task.exclusive else sets.absent)):
            needed = task.classes if name == "present" or not task.exclusive else ()
            if set(known) != set(needed):
                raise UserError(f"{path}: sets.{name} has {shown(list(known))}; expected {', '.join(needed)}; {fix}")
    return sets


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
