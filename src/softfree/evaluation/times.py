"""Risks and survival that a model predicted, for samples whose time to an event is known or censored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from softfree.data.follow_up import EVENT, TIME
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

STEPS = 20
"""Times up to the last horizon over which the Brier score is integrated."""


@dataclass(frozen=True, eq=False)
class Times:
    """Predictions and truths of the same samples.

    Attributes:
        task: What is predicted.
        risks: ``(n,)`` float64, higher for an earlier event.
        targets: ``(n, 2)`` float64, times and events (1, or 0 for censored).
        patients: ``(n,)`` int64 anonymous patient numbers, as in :class:`~softfree.evaluation.scores.Scores`.
        horizons: ``(H,)`` times at which survival is predicted; empty for a model of risks alone.
        survival: ``(n, H)`` predicted probability to be free of the event at the horizons.
        curves: ``(n, STEPS)`` the same at :meth:`grid`.

    Raises:
        UserError: Shapes or values do not fit.
    """

    task: Task
    risks: np.ndarray
    targets: np.ndarray
    patients: np.ndarray
    horizons: tuple[float, ...] = ()
    survival: np.ndarray | None = None
    curves: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("risks", "targets"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        object.__setattr__(self, "patients", np.asarray(self.patients, dtype=np.int64))
        shapes = self.risks.shape, self.targets.shape, self.patients.shape
        if shapes != ((self.risks.size,), (self.risks.size, 2), (self.risks.size,)):
            raise UserError(
                f"got risks of shape {shapes[0]}, targets of {shapes[1]} and patients of {shapes[2]}; expected one"
                " risk, and a time and an event, for each sample"
            )
        if not np.isfinite(self.targets).all():
            raise UserError("some times or events are not finite numbers: leave out samples of unknown truth")

    def __len__(self) -> int:
        return len(self.risks)

    @property
    def times(self) -> np.ndarray:
        """The times ``(n,)``."""
        return self.targets[:, TIME]

    @property
    def events(self) -> np.ndarray:
        """Whether each time is that of the event, boolean ``(n,)``."""
        return self.targets[:, EVENT] == 1

    @property
    def size(self) -> int:
        """Number of pairs that a C-index goes over."""
        return int(self.events.sum()) * len(self)

    @cached_property
    def patients_repeat(self) -> bool:
        """Whether some patient has more than one sample."""
        return len(np.unique(self.patients)) < len(self)

    @property
    def grid(self) -> np.ndarray:
        """Times of the curves."""
        return time_grid(self.horizons)

    def subset(self, rows: np.ndarray) -> Times:
        """Select the samples of ``rows``, boolean or integer."""
        parts = (None if part is None else part[rows] for part in (self.survival, self.curves))
        return Times(self.task, self.risks[rows], self.targets[rows], self.patients[rows], self.horizons, *parts)


def time_grid(horizons: tuple[float, ...]) -> np.ndarray:
    """Return equally spaced times up to the last horizon, without 0, where survival is 1."""
    return np.linspace(0, horizons[-1], STEPS + 1)[1:] if horizons else np.zeros(0)
