"""By what trainings of a study are compared: the main metric of a task, or the mean score of several targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from softfree.core.options import Target
from softfree.evaluation.metrics import target_metric
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.scoring import logit_columns, target_columns
from softfree.training.module import normalized_score, validation_score
from softfree_runtime.core.files import read_yaml

StudyMetric = Literal["auroc", "mae", "c_index", "score"]
"""``score`` is the mean over several targets, as in :func:`mean_score`."""


class HasTask(Protocol):
    """Options that say what is predicted."""

    task: Target | None
    targets: Path | None


class HeldOut(NamedTuple):
    """The result of a training on the rows that it holds out.

    Attributes:
        value: NaN if undefined.
        low: Lower bound of its 95 % interval; NaN without.
        high: Upper bound.
        reason: Why the value is undefined.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str | None = None


def study_metric(options: HasTask) -> StudyMetric:
    """Return the metric by which trainings are compared."""
    return "score" if options.targets is not None else target_metric(options.task)


def held_out(directory: RunDirectory, metric: StudyMetric) -> HeldOut:
    """Return the metric of a finished training on its validation rows."""
    if metric == "score":
        value = mean_score(Run.load(directory.root))
        return HeldOut(value, reason="no target has a score" if math.isnan(value) else None)
    found = directory.read_metrics()["metrics"][metric]
    value, low, high = (math.nan if found.get(name) is None else found[name] for name in ("value", "low", "high"))
    return HeldOut(value, low, high, found.get("reason"))


def mean_score(run: Run) -> float:
    """Return the score by which training compares its epochs, of the validation rows of a run of several targets.

    It is the mean over the targets that have one: 0 for guessing, 1 for no error; see
    :func:`softfree.training.module.normalized_score`.
    """
    scores = [_score(part) for part in run.parts.values()]
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else math.nan


def _score(part: Run) -> float:
    frame, task = part.directory.read_predictions(), part.task
    frame = frame[(frame["split"] == "val") & (frame["status"] == "ok")]
    if frame.empty:
        return math.nan
    logits = torch.from_numpy(frame[logit_columns(task)].to_numpy(np.float64, copy=True))
    targets = torch.from_numpy(frame[target_columns(task)].to_numpy(np.float64, copy=True))
    if task.exclusive or task.numeric:
        targets = targets[:, 0].long() if task.exclusive else targets[:, 0]
    standard = part.config["target"] if task.numeric else None
    pair = None if standard is None else (standard["mean"], standard["standard_deviation"])
    _, value = validation_score(task, logits, targets, pair)
    return normalized_score(task, value, targets)


def targets_setting(options: HasTask) -> Mapping[str, Any]:
    """Return the content of the file of targets, so that a folder is not gone on with another; empty without one."""
    return {} if options.targets is None else {"targets": read_yaml(options.targets, "targets")}
