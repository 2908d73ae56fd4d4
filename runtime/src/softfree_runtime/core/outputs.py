"""Predictions from logits, in numpy."""

from __future__ import annotations

import numpy as np

from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.task import Task


def probabilities(logits: np.ndarray, task: Task, temperature: float = 1.0) -> np.ndarray:
    """Return float64 probabilities of ``logits (n, K) / temperature``: softmax for exclusive classes, else sigmoid."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if task.exclusive:
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)
    small = np.exp(-np.abs(scaled))  # never overflows
    return np.where(scaled >= 0, 1.0, small) / (1 + small)


def predicted_label(row: np.ndarray, task: Task, thresholds: dict[str, float]) -> str:
    """Return the label for one row of probabilities; several findings are joined by ``; ``."""
    if task.kind == "multiclass":
        return task.classes[int(row.argmax())]
    if task.kind == "binary":
        return task.classes[int(row[1] >= thresholds.get(task.classes[1], 0.5))]
    return "; ".join(name for name, p in zip(task.classes, row, strict=True) if p >= thresholds.get(name, 0.5))


def columns(
    logits: np.ndarray,
    task: Task,
    temperature: float,
    thresholds: dict[str, float],
    sets: ConformalSets | None = None,
) -> dict[str, object]:
    """Return the columns of a sample with logits ``(K,)``: its probabilities, label and, with ``sets``, conformal set.

    These are ``p_<class>``, ``raw_<class>``, ``predicted`` and those of :meth:`ConformalSets.columns`; None and "" if
    the logits are NaN.
    """
    if np.isnan(logits).any():
        empty: dict[str, object] = {f"{kind}_{name}": None for kind in ("p", "raw") for name in task.classes}
        return empty | {"predicted": ""} | ({} if sets is None else sets.empty_columns(task))
    calibrated, raw = (probabilities(logits[None], task, divisor)[0] for divisor in (temperature, 1.0))
    values: dict[str, object] = {f"p_{name}": float(p) for name, p in zip(task.classes, calibrated, strict=True)}
    values |= {f"raw_{name}": float(p) for name, p in zip(task.classes, raw, strict=True)}
    values["predicted"] = predicted_label(calibrated, task, thresholds)
    return values if sets is None else values | sets.columns(calibrated, task)


def distance_columns(distance: float) -> dict[str, object]:
    """Return ``distance`` from the training samples and ``unusual``, whether it is above 1; None for NaN."""
    if np.isnan(distance):
        return {"distance": None, "unusual": None}
    return {"distance": float(distance), "unusual": bool(distance > 1)}
