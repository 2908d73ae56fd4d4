"""Predictions from a model's outputs, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.scale import Scale
from softfree_runtime.core.survival import Survival
from softfree_runtime.core.task import Task


def probabilities(logits: np.ndarray, task: Task, temperature: float = 1.0) -> np.ndarray:
    """Return float64 probabilities ``(n, K)`` of ``logits / temperature``.

    Softmax of ``(n, K)`` for exclusive classes, sigmoid for findings, and for ordinal classes
    :func:`grade_probabilities` of ``(n, K - 1)``.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if task.ordered:
        return grade_probabilities(scaled)
    if task.exclusive:
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)
    return _sigmoid(scaled)


def values_of(outputs: np.ndarray, temperature: float, scale: Scale) -> np.ndarray:
    """Return the numbers of a regression, float64, in the unit of its target, from outputs of any shape."""
    return np.asarray(outputs, dtype=np.float64) / temperature + scale.offset


def grade_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities ``(n, K)`` of ordered classes from the logits ``(n, K - 1)`` of the cuts between them.

    Logit k belongs to the conditional probability ``P(y > k | y >= k)``: the continuation-ratio model (Fienberg, The
    Analysis of Cross-Classified Categorical Data, 1980), in deep learning CORN (Shi, Cao and Raschka, Pattern Analysis
    and Applications 26, 2023). ``P(y > k)`` is the product of the first of them, so it falls with k whatever the logits
    are: no probability of a class is negative, also after a temperature or a mean over models.
    """
    exceeds = np.cumprod(_sigmoid(logits), axis=1)  # (n, K - 1), P(y > k)
    reaches = np.concatenate([np.ones_like(logits[:, :1]), exceeds], axis=1)  # (n, K), P(y >= k)
    stops = np.concatenate([_sigmoid(-logits), np.ones_like(logits[:, :1])], axis=1)  # (n, K), P(y = k | y >= k)
    return reaches * stops


def chosen_classes(probabilities: np.ndarray, task: Task) -> np.ndarray:
    """Return the class numbers ``(n,)`` that are predicted where there are no thresholds.

    The most probable class; of ordered classes the median, which has the least expected distance from the truth: the
    number of cuts that are exceeded with a probability above one half.
    """
    if task.ordered:
        return np.asarray((np.cumsum(probabilities[:, :-1], axis=1) < 0.5).sum(axis=1))
    return np.asarray(probabilities.argmax(axis=1))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(values))  # never overflows
    return np.where(values >= 0, 1.0, small) / (1 + small)


def predicted_label(row: np.ndarray, task: Task, thresholds: dict[str, float]) -> str:
    """Return the label for one row of probabilities; several findings are joined by ``; ``."""
    if not task.by_threshold:
        return task.classes[int(chosen_classes(row[None], task)[0])]
    if task.kind == "binary":
        return task.classes[int(row[1] >= thresholds.get(task.classes[1], 0.5))]
    return "; ".join(name for name, p in zip(task.classes, row, strict=True) if p >= thresholds.get(name, 0.5))


def columns(
    logits: np.ndarray,
    task: Task,
    temperature: float,
    thresholds: dict[str, float],
    sets: ConformalSets | None = None,
    scale: Scale | None = None,
    survival: Survival | None = None,
) -> dict[str, object]:
    """Return the columns of a sample with logits ``(K,)``, or ``(K - 1,)`` of ordinal classes.

    Its probabilities, label and, with ``sets``, conformal set: ``p_<class>``, ``raw_<class>``, ``predicted`` and those
    of :meth:`ConformalSets.columns`; None and "" if the logits are NaN. Of a regression the columns are those of
    :meth:`Scale.columns`, of survival those of :meth:`Survival.columns`.
    """
    if task.timed:
        assert survival is not None
        return survival.columns(np.asarray(logits, dtype=np.float64) / temperature, task)
    if task.numeric:
        scale = scale or Scale()
        return scale.columns(float(values_of(logits, temperature, scale)[0]))
    if np.isnan(logits).any():
        empty: dict[str, object] = {f"{kind}_{name}": None for kind in ("p", "raw") for name in task.classes}
        return empty | {"predicted": ""} | ({} if sets is None else sets.empty_columns(task))
    calibrated, raw = (probabilities(logits[None], task, divisor)[0] for divisor in (temperature, 1.0))
    values: dict[str, object] = {f"p_{name}": float(p) for name, p in zip(task.classes, calibrated, strict=True)}
    values |= {f"raw_{name}": float(p) for name, p in zip(task.classes, raw, strict=True)}
    values["predicted"] = predicted_label(calibrated, task, thresholds)
    return values if sets is None else values | sets.columns(calibrated, task)


@dataclass(frozen=True)
class Postprocessing:
    """What turns the outputs of one target into columns; see :func:`columns`."""

    task: Task
    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    sets: ConformalSets | None = None
    scale: Scale | None = None
    survival: Survival | None = None

    def columns(self, logits: np.ndarray) -> dict[str, object]:
        """Return the columns of a sample with logits ``(K,)``."""
        return columns(logits, self.task, self.temperature, self.thresholds, self.sets, self.scale, self.survival)


def target_columns(logits: np.ndarray, targets: Mapping[str, Postprocessing]) -> dict[str, object]:
    """Return the columns ``<target>.<column>`` of a sample with the logits ``(K,)`` of all targets in turn."""
    values: dict[str, object] = {}
    first = 0
    for name, answers in targets.items():
        own = logits[first : first + len(answers.task.outputs)]
        values |= {f"{name}.{column}": value for column, value in answers.columns(own).items()}
        first += len(own)
    return values


def distance_columns(distance: float) -> dict[str, object]:
    """Return ``distance`` from the training samples and ``unusual``, whether it is above 1; None for NaN."""
    if np.isnan(distance):
        return {"distance": None, "unusual": None}
    return {"distance": float(distance), "unusual": bool(distance > 1)}
