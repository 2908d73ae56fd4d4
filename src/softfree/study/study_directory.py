"""The files of a study: those of a run directory, and the plan, the folds and the members."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from softfree.inference.run_directory import RunDirectory


class MemberKey(NamedTuple):
    """Which training of a study: fold, draw of the folds and seed, each counted from 1."""

    fold: int
    repeat: int = 1
    seed: int = 1

    @property
    def name(self) -> str:
        """Name of the folder."""
        repeat = f"_repeat{self.repeat}" if self.repeat > 1 else ""
        return f"fold{self.fold}{repeat}" + (f"_seed{self.seed}" if self.seed > 1 else "")


class StudyDirectory(RunDirectory):
    """Paths of a study. The finished folder can be used like a run: it is the ensemble of its members.

    ::

        plan.yaml     what was planned and why; may be edited before the first training
        folds.json    the fold of each row, with hashed patient names
        members/      a run directory for each training
        pretrained/   the weights that each training began with, if they were planned
        cache/        preprocessed images that the trainings share; deleted at the end

    and the files of a run directory, in which each sample was predicted by the members that were not trained on it.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.plan = self.root / "plan.yaml"
        self.folds = self.root / "folds.json"
        self.members = self.root / "members"
        self.pretrained = self.root / "pretrained"
        self.cache = self.root / "cache"

    def is_study_or_unused(self) -> bool:
        """Whether a study may begin or go on here; one that has no plan yet may have left its folds."""
        if self.plan.is_file() or not self.root.exists():
            return True
        return self.root.is_dir() and {*self.root.iterdir()} <= {self.lock, self.folds}

    def member(self, key: MemberKey) -> Path:
        """Return the run directory of a member."""
        return self.members / key.name


def member_keys(folds: int, repeats: int, seeds: int) -> Iterator[MemberKey]:
    """List the trainings of a study: all folds of a draw before the next."""
    for seed in range(1, seeds + 1):
        for repeat in range(1, repeats + 1):
            for fold in range(1, folds + 1):
                yield MemberKey(fold, repeat, seed)
