"""The loss of each kind of task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfree.data.task import Task


class Objective(nn.Module):
    """Cross-entropy for classes that exclude each other, masked binary cross-entropy for findings.

    Args:
        task: what is predicted.
        label_smoothing: share of the target that all classes (or both states of a finding) get alike.
        weights: ``(K,)`` weight of each class, or of the presence of each finding.
    """

    def __init__(self, task: Task, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.exclusive = task.exclusive
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits ``(B, K)``.

        Targets are ``(B,)`` class numbers, ``(B, K)`` class probabilities (mixup), or for findings ``(B, K)`` with NaN
        where unknown: those have no part in the loss, nor in what it is divided by.
        """
        logits = logits.float()
        if self.exclusive:
            return F.cross_entropy(logits, targets, weight=self.weights, label_smoothing=self.label_smoothing)
        known = ~targets.isnan()
        smooth = targets.nan_to_num() * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.weights, reduction="none")
        return (losses * known).sum() / known.sum().clamp_min(1)


class Distillation(nn.Module):
    """What a student is from its teacher: KL divergence, or binary cross-entropy for findings (Hinton et al. 2015).

    Args:
        task: what is predicted.
        temperature: T, by which both logits are divided. The loss is multiplied by T^2, which keeps its slope.
    """

    def __init__(self, task: Task, temperature: float) -> None:
        super().__init__()
        self.exclusive = task.exclusive
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean loss of the student's logits ``(B, K)`` against the teacher's ``(B, K)``."""
        student, teacher = student.float() / self.temperature, teacher.float() / self.temperature
        if self.exclusive:
            wanted, got = teacher.log_softmax(1), student.log_softmax(1)
            loss = F.kl_div(got, wanted, reduction="batchmean", log_target=True)
        else:
            loss = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
        return loss * self.temperature**2


def class_weights(task: Task, targets: np.ndarray) -> Tensor:
    """Weights ``(K,)`` inverse to the frequency in ``targets``: mean 1 over pictures, or negatives per positive."""
    if task.exclusive:
        counts = np.bincount(targets, minlength=len(task.classes)).clip(1)
        return torch.tensor(len(targets) / (len(task.classes) * counts), dtype=torch.float32)
    positive = np.nansum(targets, axis=0).clip(1)
    known = (~np.isnan(targets)).sum(axis=0)
    return torch.tensor(((known - positive) / positive).clip(1e-2, 1e2), dtype=torch.float32)
