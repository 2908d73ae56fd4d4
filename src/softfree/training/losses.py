"""The loss of each kind of task.

What a batch's sum of losses is divided by must not depend on how the images of a step are cut into batches: 16 at once,
one by one with accumulated gradients, or shared by devices. It is the number of images, or of cells that are expected
to be known in as many images; never the sum of the weights or the number of known cells that a batch happens to have.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfree_runtime.core.task import Task


class Objective(nn.Module):
    """Cross-entropy for classes that exclude each other, masked binary cross-entropy for findings.

    Args:
        task: what is predicted.
        label_smoothing: share of the target that all classes (or both states of a finding) get alike.
        weights: ``(K,)`` weight of each class, of mean 1 over the training images, or of the presence of each finding.
        known: share of the findings' cells that are known in the training set; None divides by those that are known in
            the batch, for a batch that is the whole set.
    """

    def __init__(
        self,
        task: Task,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
        known: float | None = None,
    ) -> None:
        super().__init__()
        self.known = known
        self.exclusive = task.exclusive
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits ``(B, K)``.

        Targets are ``(B,)`` class numbers, ``(B, K)`` class probabilities (mixup), or for findings ``(B, K)`` with NaN
        where unknown: those have no part in the loss.
        """
        logits = logits.float()
        if self.exclusive:
            smoothing = self.label_smoothing
            losses = F.cross_entropy(logits, targets, self.weights, label_smoothing=smoothing, reduction="none")
            return losses.mean()  # not divided by the weights of this batch
        known = ~targets.isnan()
        smooth = targets.nan_to_num() * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.weights, reduction="none")
        expected = known.sum().clamp_min(1) if self.known is None else known.numel() * self.known
        return (losses * known).sum() / expected


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


def known_share(task: Task, targets: np.ndarray) -> float | None:
    """Share of the findings' cells in ``targets`` that are known; None for classes, all of which are."""
    return None if task.exclusive else max(float((~np.isnan(targets)).mean()), 1 / targets.size)


def class_weights(task: Task, targets: np.ndarray) -> Tensor:
    """Weights ``(K,)`` inverse to the frequency in ``targets``: mean 1 over images, or negatives per positive."""
    if task.exclusive:
        counts = np.bincount(targets, minlength=len(task.classes)).clip(1)
        return torch.tensor(len(targets) / (len(task.classes) * counts), dtype=torch.float32)
    positive = np.nansum(targets, axis=0).clip(1)
    known = (~np.isnan(targets)).sum(axis=0)
    return torch.tensor(((known - positive) / positive).clip(1e-2, 1e2), dtype=torch.float32)
