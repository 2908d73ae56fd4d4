"""The loss and the validation score of several targets, from those of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from softfree.core.options import OptimizerOptions
from softfree.training.losses import (
    NumberObjective,
    Objective,
    class_weights,
    known_fraction,
    number_loss,
    standardization,
    survival_objective,
)
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import Targets, single_targets
from softfree_runtime.core.task import Task


class TargetObjective(nn.Module):
    """The loss of one of several targets, over the samples in which it is known.

    Args:
        objective: Mean loss of the target's outputs and targets.
        outputs: Which of the model's outputs are its.
        columns: Which columns of the targets are its.
        task: What is predicted.
        share: Fraction of the training samples in which it is known; None for that of the batch, which is the whole
            set.
        standard: Mean and standard deviation of a number; else None.
    """

    def __init__(
        self,
        objective: nn.Module,
        outputs: slice,
        columns: slice,
        task: Task,
        share: float | None,
        standard: tuple[float, float] | None,
    ) -> None:
        super().__init__()
        self.objective, self.task, self.standard = objective, task, standard
        self.outputs, self.columns, self.share = outputs, columns, share

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the model's outputs ``(B, K)`` against the targets ``(B, columns)``.

        The sum over the known samples is divided by their expected number, so that it does not depend on how a step is
        split into batches.
        """
        own, truth = self.known(outputs, targets)
        if not len(own):
            return outputs[:, self.outputs].float().sum() * 0  # each parameter has a gradient on every device
        expected = len(own) if self.share is None else len(outputs) * self.share
        return self.objective(own, truth) * (len(own) / expected)

    def known(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs and targets of the samples in which the target is known, as the objective takes them."""
        own = targets[:, self.columns]
        rows = ~own.isnan().all(dim=1)
        own = own[rows]
        if self.task.exclusive:
            own = own[:, 0].long()
        elif self.task.numeric:
            own = own[:, 0]
        elif not self.task.timed:  # times are compared: they stay exact
            own = own.float()
        return outputs[rows][:, self.outputs], own


class SeveralObjectives(nn.Module):
    """The weighted sum of the losses of several targets.

    Args:
        parts: The loss of each target, by name.
        weights: Their weights.
    """

    def __init__(self, parts: Mapping[str, TargetObjective], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.names, self.weights = list(parts), weights
        self.parts = nn.ModuleList(parts.values())

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the model's outputs ``(B, K)`` against the targets ``(B, columns)``."""
        losses = self.each(outputs, targets)
        return sum((self.weights[name] * loss for name, loss in losses.items()), start=outputs.new_zeros(()))

    def each(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the loss of each target, without its weight."""
        return {name: part(outputs, targets) for name, part in zip(self.names, self.parts, strict=True)}

    def items(self) -> list[tuple[str, Any]]:
        """Return the parts by name."""
        return list(zip(self.names, self.parts, strict=True))


class Objectives(NamedTuple):
    """The losses of a training: in its steps, and over all validation samples."""

    training: nn.Module
    validation: nn.Module
    standard: tuple[float, float] | None = None


def objectives_of(
    task: Task, targets: np.ndarray, options: OptimizerOptions, weights: Mapping[str, float]
) -> Objectives:
    """Create the losses of a task or of several targets.

    Args:
        task: What is predicted.
        targets: Of the training samples.
        options: The recipe.
        weights: Weight of each of several targets.

    Raises:
        UserError: A number that is equal in all training samples.
    """
    if not isinstance(task, Targets):
        return _single(task, targets, options)
    training, validation = {}, {}
    outputs, columns, known = task.output_slices(), task.target_slices(), task.known(targets)
    for name, part, own in single_targets(task, targets):
        rows = known[name]
        if not rows.any():
            raise UserError(f"target {name!r} has no known cell in the training samples that can be read")
        truth = own[rows].astype(np.int64) if part.exclusive else own[rows]
        try:
            made = _single(part, truth, options)
        except UserError as error:
            raise UserError(f"target {name!r}: {error}") from None
        where = outputs[name], columns[name], part
        training[name] = TargetObjective(made.training, *where, float(rows.mean()), made.standard)
        validation[name] = TargetObjective(made.validation, *where, None, made.standard)
    return Objectives(SeveralObjectives(training, weights), SeveralObjectives(validation, weights))


def _single(task: Task, targets: np.ndarray, options: OptimizerOptions) -> Objectives:
    """Create the losses of one task."""
    if task.numeric:
        standard = standardization(targets)
        objective = NumberObjective(*standard, number_loss(options.loss))
        return Objectives(objective, objective, standard)
    if task.timed:
        return Objectives(survival_objective(task), survival_objective(task))
    weights = class_weights(task, targets) if options.class_weights else None
    training = Objective(task, options.label_smoothing, weights, known_fraction(task, targets))
    return Objectives(training, Objective(task))
