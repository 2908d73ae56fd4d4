"""The loss of each kind of task.

The divisor of a batch's summed loss must not depend on how the images of a step are split into batches: 16 at once, one
by one with accumulated gradients, or across devices. It is the number of images, or the expected number of known labels
in that many images; never the sum of weights or the number of known labels that a batch happens to have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfree.core.class_logits import class_logits
from softfree.core.options import LossName, NumberLossName
from softfree.core.partial_likelihood import negative_log_partial_likelihood
from softfree.data.follow_up import EVENT, TIME
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


class Objective(nn.Module):
    """Cross-entropy for mutually exclusive classes, with or without an order; masked binary cross-entropy for findings.

    Args:
        task: What is predicted.
        label_smoothing: Fraction of the target that is spread over all classes (or both states of a finding).
        weights: ``(K,)`` weights of the classes, with mean 1 over the training images, or of positive findings.
        known: Fraction of known labels of findings in the training set; None divides by the known labels of the batch,
            for a batch that is the whole set.
    """

    def __init__(
        self,
        task: Task,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
        known: float | None = None,
    ) -> None:
        super().__init__()
        self.known, self.task = known, task
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits ``(B, K)``, or ``(B, K - 1)`` of ordinal classes.

        Targets are ``(B,)`` class numbers, ``(B, K)`` class probabilities (mixup), or for findings ``(B, K)`` with NaN
        for unknown labels, which are ignored.
        """
        logits = logits.float()
        if self.task.exclusive:
            logits, smoothing = class_logits(logits, self.task), self.label_smoothing
            losses = F.cross_entropy(logits, targets, self.weights, label_smoothing=smoothing, reduction="none")
            return losses.mean()  # not divided by the class weights of this batch
        known = ~targets.isnan()
        smooth = targets.nan_to_num() * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.weights, reduction="none")
        expected = known.sum().clamp_min(1) if self.known is None else known.numel() * self.known
        return (losses * known).sum() / expected


class NumberObjective(nn.Module):
    """Mean loss of a regression, on the standardized target.

    Args:
        mean: Mean of the training targets.
        std: Their standard deviation.
        loss: ``huber`` (Huber, Annals of Mathematical Statistics 35, 1964, with a threshold of one standard deviation),
            ``mse`` or ``l1``.
    """

    LOSSES: ClassVar[dict[str, Callable[..., Tensor]]] = {"huber": F.huber_loss, "mse": F.mse_loss, "l1": F.l1_loss}

    def __init__(self, mean: float, std: float, loss: NumberLossName = "huber") -> None:
        super().__init__()
        self.mean, self.std, self.loss = mean, std, loss

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, 1)``, in standard deviations from the mean, against targets ``(B,)``."""
        wanted = ((targets.double() - self.mean) / self.std).float()
        return self.LOSSES[self.loss](outputs.float()[:, 0], wanted)


class HazardObjective(nn.Module):
    """Minus the mean log likelihood of hazards in time intervals (nnet-survival, Gensheimer and Narasimhan 2019).

    A sample with the event has survived the intervals before its own. A censored one has survived each interval whose
    middle it reached, so that an interval which it saw half of counts as seen. Events after the last cut count as
    censored there. The sum over a sample's intervals belongs to that sample alone: the mean is over samples.

    Args:
        cuts: Ends of the intervals ``(J,)``; an interval includes its end.
    """

    def __init__(self, cuts: Sequence[float]) -> None:
        super().__init__()
        self.ends: Tensor
        self.middles: Tensor
        ends = torch.tensor(cuts, dtype=torch.float32)
        self.register_buffer("ends", ends, persistent=False)
        self.register_buffer("middles", (ends + F.pad(ends, (1, 0))[:-1]) / 2, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits ``(B, J)`` against times and events ``(B, 2)``."""
        # Validation is measured on the processor, wherever the module is.
        ends, middles = self.ends.to(outputs.device), self.middles.to(outputs.device)
        times, events = targets[:, TIME, None].float(), targets[:, EVENT, None] == 1
        own = torch.searchsorted(ends, times)  # the interval of the event; J after the last
        number = torch.arange(len(ends), device=outputs.device)
        here = events & (number == own)
        survived = torch.where(events, number < own, middles <= times)
        return F.binary_cross_entropy_with_logits(
            outputs.float(), here.float(), weight=(here | survived).float(), reduction="sum"
        ) / len(outputs)


class CoxObjective(nn.Module):
    """Minus the Cox partial log likelihood of the samples of a batch, with Efron's ties, by torchsurv.

    Each event is compared with the samples of its batch that are still at risk, and with no others. So this loss,
    unlike all others here, depends on how samples are split into batches: smaller batches compare less. Its sum over
    events is divided by the number of samples, so that a batch counts by its events.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of log hazards ``(B, 1)`` against times and events ``(B, 2)``; 0 without an event."""
        log_hazards, events = outputs.float()[:, 0], targets[:, EVENT] == 1
        if len(outputs) < 2 or not events.any():
            return (log_hazards * 0).sum()  # which has a gradient, of zeros
        return negative_log_partial_likelihood(log_hazards, targets[:, TIME].float(), events) / len(outputs)


def survival_objective(task: Task) -> nn.Module:
    """Return the loss of survival: of hazards in the intervals of the task, or without intervals Cox's."""
    return HazardObjective(task.cuts) if task.cuts else CoxObjective()


def number_loss(loss: LossName | None) -> NumberLossName:
    """Return the loss of a regression; ``huber`` by default."""
    return loss if loss in ("huber", "mse", "l1") else "huber"


def standardization(targets: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the training targets of a regression.

    Raises:
        UserError: All are equal.
    """
    std = float(targets.std())
    if std == 0 or np.ptp(targets) == 0:
        raise UserError(f"all training rows have the target {targets[0]:g}; expected numbers that differ")
    return float(targets.mean()), std


class Distillation(nn.Module):
    """KL divergence of a student from its teacher, or binary cross-entropy for findings (Hinton et al. 2015).

    Args:
        task: What is predicted.
        temperature: T, by which both logits are divided; the loss is multiplied by T^2 to keep its gradient.
    """

    def __init__(self, task: Task, temperature: float) -> None:
        super().__init__()
        self.task, self.temperature = task, temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean loss of the student's logits ``(B, K)`` against the teacher's ``(B, K)``."""
        student, teacher = student.float() / self.temperature, teacher.float() / self.temperature
        if self.task.exclusive:
            target, predicted = (class_logits(logits, self.task).log_softmax(1) for logits in (teacher, student))
            loss = F.kl_div(predicted, target, reduction="batchmean", log_target=True)
        else:
            loss = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
        return loss * self.temperature**2


def known_fraction(task: Task, targets: np.ndarray) -> float | None:
    """Fraction of known labels in ``targets`` of findings; None for other targets, which are all known."""
    return None if task.kind != "multilabel" else max(float((~np.isnan(targets)).mean()), 1 / targets.size)


def class_weights(task: Task, targets: np.ndarray) -> Tensor:
    """Weights ``(K,)`` inverse to the frequency in ``targets``: mean 1 over images, or negatives per positive."""
    if task.exclusive:
        counts = np.bincount(targets, minlength=len(task.classes)).clip(1)
        return torch.tensor(len(targets) / (len(task.classes) * counts), dtype=torch.float32)
    positive = np.nansum(targets, axis=0).clip(1)
    known = (~np.isnan(targets)).sum(axis=0)
    return torch.tensor(((known - positive) / positive).clip(1e-2, 1e2), dtype=torch.float32)
