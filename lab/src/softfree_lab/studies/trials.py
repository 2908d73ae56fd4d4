"""The trials of a study, each a training run, and the record of the finished ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softfree.evaluation.scores import Scores
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.core.task import Task


class TrialKey(NamedTuple):
    """Identity of a trial: data set (the recipe's name), variant, seed and fold.

    Folds are counted from 1; fold 0 is the table's own split, or all folds pooled.
    """

    data: str
    variant: str
    seed: int
    fold: int = 0

    def __str__(self) -> str:
        return f"{self.data}, {self.variant}, seed {self.seed}" + (f", fold {self.fold}" if self.fold else "")

    @property
    def folder(self) -> str:
        """Name of the run directory."""
        name = f"{self.data}/{self.variant.replace(' ', '_')}_seed{self.seed}"
        return f"{name}_fold{self.fold}" if self.fold else name


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished training run with everything that the tables need, but without weights and names.

    Attributes:
        key: Data set, variant and seed.
        options: Options of ``softfree train``, without paths.
        kind, classes: Kind and classes of the task.
        targets: Targets of the test images, as in :class:`~softfree.evaluation.scores.Scores`.
        patients: Numbers of the patients.
        probabilities: Calibrated probabilities (n, K), by side relative to training.
        cost: Seconds, CPU seconds, peak bytes, parameters, multiply-adds.
        machine: The machine it was trained on.
        curve: Steps and validation AUROC after each epoch; empty for a baseline, and in old records.
    """

    key: TrialKey
    options: dict[str, Any]
    kind: str
    classes: list[str]
    targets: list[Any]
    patients: list[int]
    probabilities: dict[str, list[list[float]]]
    cost: dict[str, Any]
    machine: str = field(default="")
    curve: list[tuple[int, float]] = field(default_factory=list)

    def scores(self, scale: float = 1.0) -> Scores:
        """Return the scores at a side, relative to training."""
        task = Task(self.kind, tuple(self.classes))  # type: ignore[arg-type]
        targets = np.array(self.targets, dtype=np.int64 if task.exclusive else np.float64)
        return Scores(task, np.array(self.probabilities[f"{scale:g}"]), targets, np.array(self.patients))


def read_trials(path: Path) -> dict[TrialKey, Trial]:
    """Read a record with one trial per line in JSON; empty if there is no file."""
    if not path.is_file():
        return {}
    trials = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            trial = Trial(**(values | {"key": TrialKey(**values["key"])}))
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}, line {number}: expected a finished trial in JSON; delete the line") from None
        trials[trial.key] = trial
    return trials


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write a record, sorted."""
    lines = (
        json.dumps(asdict(trial) | {"key": trial.key._asdict()}, separators=(",", ":"))
        for trial in sorted(trials, key=lambda trial: trial.key)
    )
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def check_same_options(trial: Trial, wanted: dict[str, Any], path: Path) -> None:
    """Reject a recorded trial that was trained with other options than requested."""
    names = sorted(set(trial.options) | set(wanted))
    differing = [name for name in names if trial.options.get(name) != wanted.get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"{path} holds {trial.key} with {name} {trial.options.get(name)!r}, but {wanted.get(name)!r} was "
            "requested: choose another --out, or delete the line"
        )
