"""Numbers that a model predicted, for samples with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


@dataclass(frozen=True, eq=False)
class Values:
    """Predictions and truths of the same samples, in the unit of the target.

    Attributes:
        task: What is predicted.
        predicted: ``(n,)`` float64.
        targets: ``(n,)`` float64, finite.
        patients: ``(n,)`` int64 anonymous patient numbers, as in :class:`~softfree.evaluation.scores.Scores`.
        half_widths: ``(n,)`` half the width of each prediction interval, NaN where there is none; None if no sample has
            one.

    Raises:
        UserError: Shapes or values do not fit.
    """

    task: Task
    predicted: np.ndarray
    targets: np.ndarray
    patients: np.ndarray
    half_widths: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("predicted", "targets"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        object.__setattr__(self, "patients", np.asarray(self.patients, dtype=np.int64))
        shapes = {name: np.shape(getattr(self, name)) for name in ("predicted", "targets", "patients")}
        if set(shapes.values()) != {(self.predicted.size,)}:
            raise UserError(f"got {', '.join(f'{name} of shape {shape}' for name, shape in shapes.items())}; expected"
                            " one number for each sample")  # fmt: skip
        if not np.isfinite(self.targets).all():
            raise UserError("some targets are not finite numbers: leave out samples of unknown truth")

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def size(self) -> int:
        """Number of predicted numbers."""
        return len(self)

    @cached_property
    def patients_repeat(self) -> bool:
        """Whether some patient has more than one sample."""
        return len(np.unique(self.patients)) < len(self)

    def subset(self, rows: np.ndarray) -> Values:
        """Select the samples of ``rows``, boolean or integer."""
        half = None if self.half_widths is None else self.half_widths[rows]
        return Values(self.task, self.predicted[rows], self.targets[rows], self.patients[rows], half)
