"""From the outputs of a survival model to a risk, and to the probability to be free of the event at given times.

A model of hazards has an output for each time interval, the logit of the conditional probability of the event in it
given that the interval is reached without the event: the logistic hazard of discrete time (Brown, Biometrics 31, 1975),
in deep learning nnet-survival (Gensheimer and Narasimhan, PeerJ 7:e6257, 2019). Within an interval the hazard is taken
as constant, so that the cumulative hazard between two cuts is a straight line (Kvamme and Borgan, Lifetime Data
Analysis 27, 2021).

A Cox model has one output, the logarithm of the hazard relative to a baseline (Cox, J. R. Statist. Soc. B 34, 1972),
which is Breslow's estimate on samples that it was not trained on.

Outputs are calibrated first, on such samples: they are multiplied by a slope, and hazards get a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.numbers import number_names
from softfree_runtime.core.task import Task
from softfree_runtime.core.validation import check_fields, shown

_LARGEST = 700.0  # whose exponential is still a number


@dataclass(frozen=True)
class Survival:
    """What turns outputs into a risk and survival.

    Attributes:
        horizons: Times at which survival is predicted, in the unit of the target.
        times: Of a Cox model: the times at which the baseline rises, then the end of observation; else empty.
        hazards: The cumulative baseline hazard from these times on, at the center.
        center: Of a Cox model: mean output on the samples that the baseline was estimated on, from which the risk is
            counted.
        slope: Outputs, counted from the center, are multiplied by it; above 0.
        level: Of hazards: added to their logits after that; 0 of a Cox model, whose baseline has the level.
    """

    horizons: tuple[float, ...]
    times: tuple[float, ...] = ()
    hazards: tuple[float, ...] = ()
    center: float = 0.0
    slope: float = 1.0
    level: float = 0.0

    def calibrated(self, outputs: np.ndarray) -> np.ndarray:
        """Return the calibrated outputs, float64, of any shape: logits of hazards, or logarithms of hazard ratios."""
        return self.slope * (np.asarray(outputs, dtype=np.float64) - self.center) + self.level

    def risks(self, outputs: np.ndarray, task: Task) -> np.ndarray:
        """Return the risks ``(n,)`` of outputs ``(n, J)`` or ``(n, 1)``; higher means an earlier event.

        Of hazards, the share of the time up to the last cut that is expected to be lost to the event, from 0 to 1: one
        minus the restricted mean survival time divided by the last cut. Of a Cox model, the logarithm of the hazard
        relative to that of a sample at the center.
        """
        outputs = self.calibrated(outputs)
        return lost_share(outputs, np.array(task.cuts)) if task.cuts else outputs[:, 0]

    def probabilities(self, outputs: np.ndarray, task: Task, times: np.ndarray) -> np.ndarray:
        """Return the probability ``(n, T)`` to be free of the event at times ``(T,)``; NaN after :meth:`end`."""
        times = np.asarray(times, dtype=np.float64)
        outputs = self.calibrated(outputs)
        if task.cuts:
            hazards = _interpolated(_cumulative(outputs), np.array(task.cuts), times)
        else:
            ratios = np.exp(np.minimum(outputs[:, :1], _LARGEST))
            hazards = ratios * baseline_at(np.array(self.times), np.array(self.hazards), times)
        return np.where(times > self.end(task), np.nan, np.exp(-hazards))

    def end(self, task: Task) -> float:
        """Return the last time with a prediction."""
        return task.cuts[-1] if task.cuts else self.times[-1]

    def columns(self, outputs: np.ndarray, task: Task) -> dict[str, object]:
        """Return the columns of one sample with outputs ``(J,)``: ``risk`` and ``survival_<horizon>``; None for NaN."""
        names = [f"survival_{name}" for name in number_names(self.horizons)]
        if np.isnan(outputs).any():
            return {"risk": None} | dict.fromkeys(names)
        values = self.probabilities(outputs[None], task, np.array(self.horizons))[0]
        known = (None if math.isnan(value) else float(value) for value in values)
        return {"risk": float(self.risks(outputs[None], task)[0])} | dict(zip(names, known, strict=True))


def lost_share(logits: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the share of the time up to the last cut that is expected to be lost, ``(n,)`` for logits ``(n, J)``."""
    steps = np.logaddexp(0, logits)  # (n, J), cumulative hazard of each interval: -log(1 - sigmoid)
    ends = np.cumsum(steps, axis=1)
    starts = np.exp(steps - ends)  # (n, J), survival at the start of each interval
    # The mean of exp(-h x) over x from 0 to 1 is (1 - exp(-h)) / h, and 1 at h = 0.
    within = np.divide(-np.expm1(-steps), steps, out=np.ones_like(steps), where=steps > 0)
    widths = np.diff(cuts, prepend=0.0)
    return np.asarray(1 - (starts * within) @ widths / cuts[-1])


def baseline_at(times: np.ndarray, hazards: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the cumulative baseline hazard, a step function, at ``wanted`` times ``(T,)``; 0 before the first."""
    return np.concatenate([[0.0], hazards])[np.searchsorted(times, wanted, side="right")]


def _cumulative(logits: np.ndarray) -> np.ndarray:
    return np.cumsum(np.logaddexp(0, logits), axis=1)


def _interpolated(hazards: np.ndarray, cuts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return cumulative hazards ``(n, T)`` between those at the cuts ``(n, J)``, from 0 at time 0."""
    known = np.concatenate([np.zeros((len(hazards), 1)), hazards], axis=1)
    edges = np.concatenate([[0.0], cuts])
    right = np.clip(np.searchsorted(edges, times, side="left"), 1, len(cuts))
    share = np.clip((times - edges[right - 1]) / (edges[right] - edges[right - 1]), 0, 1)
    return known[:, right - 1] * (1 - share) + known[:, right] * share


def check_survival(path: Path, content: Any, task: Task | None, fix: str) -> Survival | None:
    """Create what a file describes; None if it describes none.

    Args:
        path: The file, for messages.
        content: Value read from JSON.
        task: The task; survival needs it.
        fix: How to fix the file, for messages.

    Raises:
        UserError: Names the file and the field.
    """
    if content is None:
        if task is not None and task.timed:
            raise UserError(f"{path}: survival is missing, which a survival task needs; {fix}")
        return None
    fields = check_fields(path, "survival", content, Survival, fix=fix)
    horizons, times, hazards = (tuple(map(float, fields.get(n, ()))) for n in ("horizons", "times", "hazards"))
    numbers = {name: float(fields[name]) for name in ("center", "slope", "level") if name in fields}
    found = Survival(horizons, times, hazards, **numbers)
    is_cox = task is not None and task.timed and not task.cuts
    good = all(0 < low < high < math.inf for low, high in pairwise([1e-300, *found.horizons]))
    good &= len(found.times) == len(found.hazards) and (bool(found.times) or not is_cox)
    rising = (pairwise((0.0, *values)) for values in (found.times, found.hazards))
    good &= all(low <= high < math.inf for pairs in rising for low, high in pairs)
    if not good or found.slope <= 0:
        raise UserError(
            f"{path}: survival is {shown(content)}; expected increasing horizons above 0, a slope above 0, and of a Cox"
            f" model a baseline that does not fall; {fix}"
        )
    return found
