"""Finished trainings of the study, one line of JSON each, appended and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softfree_lab.long_range.training import PROGRESS, append_line
from softfree_runtime.core.errors import UserError


class Key(NamedTuple):
    """Identity of a training."""

    task: str
    attention: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {self.attention}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Name of its folder below that of all trainings."""
        return f"{self.task}/{self.attention}_seed{self.seed}"


@dataclass(frozen=True)
class Trial:
    """A finished training.

    Attributes:
        settings: As :class:`~softfree_lab.long_range.training.Settings`.
        official: Whether the samples are those of the arena, or drawn from the same distribution, and complete.
        correct: Correct test samples.
        tested: Number of test samples.
        parameters: Number of weights.
        progress: As :class:`~softfree_lab.long_range.training.Progress`.
        machine: The machine that finished it.
    """

    settings: dict[str, Any]
    official: bool
    correct: int
    tested: int
    parameters: int
    progress: dict[str, Any]
    machine: str

    @property
    def key(self) -> Key:
        """Task, attention and seed."""
        return Key(self.settings["task"], self.settings["attention"], self.settings["seed"])


def read_trials(path: Path) -> dict[Key, Trial]:
    """Read the record; empty if there is no file. An incomplete last line, which a crash may leave, is ignored.

    Raises:
        UserError: Another line is no finished training.
    """
    if not path.is_file():
        return {}
    trials: dict[Key, Trial] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            trial = Trial(**json.loads(line))
            trials[trial.key] = trial
        except (ValueError, TypeError, KeyError):
            if number == len(lines) and not line.endswith("\n"):
                continue
            raise UserError(f"{path}, line {number}: expected a finished training in JSON; delete the line") from None
    return trials


def append_trial(path: Path, trial: Trial) -> None:
    """Append a trial to the record, after the rest of a line that a crash may have left."""
    if path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
    append_line(path, asdict(trial))


def check_same_settings(trial: Trial, wanted: Mapping[str, Any], path: Path) -> None:
    """Reject a recorded trial of other settings than requested."""
    wanted = json.loads(json.dumps(wanted))
    for name, value in wanted.items():
        if trial.settings.get(name) != value:
            raise UserError(
                f"{path} holds {trial.key} with {name} {trial.settings.get(name)!r}, but {value!r} was requested: "
                "choose another --out, or delete the line"
            )


def last_progress(folder: Path) -> dict[str, Any] | None:
    """Read how far an unfinished training is; None if it has not begun."""
    path = folder / PROGRESS
    if not path.is_file():
        return None
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            values = json.loads(line)
        except ValueError:  # a line that a crash cut off
            continue
        if isinstance(values, dict) and {"step", "steps", "best", "cpu_seconds"} <= values.keys():
            return values
    return None
