"""Logits of classes, whose softmax are their probabilities, from the outputs of a model."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from softfree_runtime.core.task import Task


def class_logits(outputs: Tensor, task: Task) -> Tensor:
    """Return logits ``(B, K)`` of exclusive classes: the outputs themselves, or of ordinal classes log probabilities.

    The latter follow from the outputs ``(B, K - 1)`` by the continuation-ratio model of
    :func:`softfree_runtime.core.outputs.grade_probabilities`. Their cross-entropy is its likelihood, the loss of CORN
    (Shi, Cao and Raschka 2023).
    """
    return grade_logits(outputs) if task.ordered else outputs


def grade_logits(outputs: Tensor) -> Tensor:
    """Return the log probabilities ``(B, K)`` of ordered classes from the logits ``(B, K - 1)`` of their cuts."""
    reaches = F.pad(F.logsigmoid(outputs).cumsum(dim=1), (1, 0))  # (B, K), log P(y >= k)
    return reaches + F.pad(F.logsigmoid(-outputs), (0, 1))  # + log P(y = k | y >= k)
