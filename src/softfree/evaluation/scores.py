"""Predictions of a model for samples with known truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


@dataclass(frozen=True, eq=False)
class Scores:
    """Probabilities and truths of the same samples.

    Attributes:
        task: What is predicted.
        probabilities: ``(n, K)`` float64 in 0..1; NaN is kept and makes the statistics NaN, with a reason.
        targets: ``(n,)`` int64 class numbers, or ``(n, K)`` float64 of 0, 1 and NaN (unknown) for ``multilabel``.
        patients: ``(n,)`` int64 anonymous patient numbers: samples of one patient are not independent, so the
            bootstrap draws patients. Without patients, give each sample a different number.
        thresholds: Probability from which each scored class counts as present, for each sample ``(n,)``; None for the
            same for all, which is then not a property of the scores. In a cross-validation each fold has its own.

    Raises:
        UserError: Shapes or values do not fit the task.
    """

    task: Task
    probabilities: np.ndarray
    targets: np.ndarray
    patients: np.ndarray
    thresholds: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        probabilities = np.asarray(self.probabilities, dtype=np.float64)
        if self.task.exclusive and probabilities.ndim == 2:  # a row with NaN has no most probable class
            probabilities = np.where(np.isnan(probabilities).any(axis=1, keepdims=True), np.nan, probabilities)
        object.__setattr__(self, "probabilities", probabilities)
        object.__setattr__(self, "patients", np.asarray(self.patients, dtype=np.int64))
        classes = len(self.task.classes)
        if probabilities.ndim != 2 or probabilities.shape[1] != classes:
            raise UserError(f"probabilities have shape {probabilities.shape}; expected (samples, {classes}): one "
                            "column for each class, in the order of the task")  # fmt: skip
        if ((probabilities < 0) | (probabilities > 1)).any():
            raise UserError("some probabilities lie outside 0..1: turn logits into probabilities first "
                            "(softfree_runtime.core.outputs.probabilities)")  # fmt: skip
        if self.patients.shape != (len(self),):
            raise UserError(f"got patient numbers of shape {self.patients.shape} for {len(self)} samples: expected one "
                            "for each sample")  # fmt: skip
        object.__setattr__(self, "targets", _checked_targets(self.targets, len(self), self.task))

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def size(self) -> int:
        """Number of probabilities."""
        return self.probabilities.size

    @cached_property
    def patients_repeat(self) -> bool:
        """Whether some patient has more than one sample."""
        return len(np.unique(self.patients)) < len(self)

    def known(self, k: int) -> np.ndarray:
        """Which samples have a known truth for class ``k``: boolean ``(n,)``."""
        return np.ones(len(self), dtype=bool) if self.task.exclusive else ~np.isnan(self.targets[:, k])

    def one_vs_rest(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class ``k`` against all others, over the samples whose truth is known.

        Returns:
            ``y`` int64 of 0 and 1, the score of class ``k``, the patient numbers; each ``(known,)``.
        """
        known = self.known(k)
        truth = self.targets[known] == k if self.task.exclusive else self.targets[known, k] == 1
        return truth.astype(np.int64), self.probabilities[known, k], self.patients[known]

    def above(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ordered classes above class ``k`` against ``k`` and those below it, as :meth:`one_vs_rest`."""
        above = np.minimum(self.probabilities[:, k + 1 :].sum(axis=1), 1.0)
        return (self.targets > k).astype(np.int64), above, self.patients

    def subset(self, rows: np.ndarray) -> Scores:
        """Select the samples of ``rows``, boolean or integer."""
        thresholds = self.thresholds and {name: values[rows] for name, values in self.thresholds.items()}
        return Scores(self.task, self.probabilities[rows], self.targets[rows], self.patients[rows], thresholds)


def missing_reason(score: np.ndarray, without: str = "no samples") -> str | None:
    """Why nothing can be measured from these scores (``without`` if there are none); None if it can."""
    if len(score) == 0:
        return without
    bad = int(np.isnan(score).sum())
    return f"{bad} of {len(score)} scores are not a number" if bad else None


def undefined_reason(y: np.ndarray, score: np.ndarray) -> str | None:
    """Why samples cannot be ranked against their truth; None if they can."""
    if reason := missing_reason(score):
        return reason
    positives = int(np.sum(y == 1))
    if positives in (0, len(y)):
        return f"no {'negative' if positives else 'positive'} among {len(y)} samples"
    return None


def _checked_targets(targets: np.ndarray, n: int, task: Task) -> np.ndarray:
    classes = len(task.classes)
    if not task.exclusive:
        targets = np.asarray(targets, dtype=np.float64)
        if targets.shape != (n, classes):
            raise UserError(f"got targets of shape {targets.shape}; expected ({n}, {classes}): one column per finding")
        if not (np.isnan(targets) | np.isin(targets, (0, 1))).all():
            raise UserError("some targets are neither 0, 1 nor empty: use 1 present, 0 absent, NaN unknown")
        return targets
    targets = np.asarray(targets)
    if targets.shape != (n,):
        raise UserError(f"got targets of shape {targets.shape}; expected ({n},): one class number for each sample")
    if not np.isin(targets, np.arange(classes)).all():
        raise UserError(f"some targets are not class numbers: expected whole numbers from 0 to {classes - 1}")
    return targets.astype(np.int64)
