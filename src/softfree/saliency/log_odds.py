"""What every map explains: the log odds of a class, log p / (1 - p) of its calibrated probability p.

They are above zero exactly where p is above one half. Logits are not: adding a constant to all logits of a softmax
changes no probability, so the sign of a single logit means nothing. With u = z / T, the logits divided by temperature,

    L_c = u_c - log sum_{j != c} exp u_j        where classes exclude each other,
    L_c = u_c                                   where they do not, or there is a single output.

As a sum over logits, exact where it is taken,

    L_c = sum_j a_j z_j - H,    a_c = 1 / T,  a_j = -b_j / T,  b = softmax of the other classes' u,

where H is the entropy of b, between 0 and log(K - 1); a is also the gradient of L_c with respect to the logits.

Of a regression a map explains how far the predicted number is above the mean of the training targets, in their unit:
z / T, with one over T their standard deviation. It takes the place of the log odds: its sign tells on which side of the
mean the prediction lies.

Where classes have an order, a map explains how far a sample reaches on their scale: the log odds of the class or one
above it, for the lowest class those of this class itself. They are a smooth function of the logits; as a sum over them
stands its tangent at the sample, whose value and gradient are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from softfree.core.class_logits import grade_logits
from softfree_runtime.core.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from softfree.inference.run import Run


class LinearLogOdds(NamedTuple):
    """Log odds as a sum over logits: ``(shares * logits).sum(1) + rest``.

    Attributes:
        shares: float64 (B, K), weights of the logits.
        rest: float64 (B,), minus the entropy among the other classes; of ordered classes what the tangent leaves.
    """

    shares: Tensor
    rest: Tensor


@dataclass(frozen=True)
class LogOdds:
    """How the probabilities follow from the logits.

    Attributes:
        exclusive: Exactly one class holds (softmax); otherwise any number of findings (sigmoid).
        temperature: The logits are divided by it.
        ordered: The classes have an order, and the logits are those of the cuts between them.
    """

    exclusive: bool = True
    temperature: float = 1.0
    ordered: bool = False

    @classmethod
    def of(cls, model: Run | nn.Module) -> LogOdds:
        """For a run, with its calibration; for a bare model, exclusive classes at temperature 1."""
        if isinstance(model, nn.Module):
            return cls()
        return cls(model.task.exclusive, model.calibration.temperature, model.task.ordered)

    def __call__(self, logits: Tensor, target: int) -> Tensor:
        """Compute the log odds (B,) of a class from logits (B, K); differentiable."""
        scaled = logits / self.temperature
        if self.ordered:
            classes = grade_logits(scaled)
            below = classes[:, : max(target, 1)].logsumexp(dim=1)
            reaches = classes[:, max(target, 1) :].logsumexp(dim=1) - below
            return reaches if target else -reaches
        if not self._others(scaled):
            return scaled[:, target]
        return scaled[:, target] - _without(scaled, target).logsumexp(dim=1)

    def linearize(self, logits: Tensor, target: int) -> LinearLogOdds:
        """Write the log odds of a class as a sum over logits (B, K)."""
        if self.ordered:
            return self._tangent(logits.detach().double().requires_grad_(), target)
        scaled = logits.detach().double() / self.temperature
        shares = torch.zeros_like(scaled)
        rest = shares.sum(dim=1)
        if self._others(scaled):
            others = _without(scaled, target).softmax(dim=1)  # 0 at the class
            shares, rest = -others, torch.special.entr(others).sum(dim=1).neg()
        shares[:, target] = 1
        return LinearLogOdds(shares / self.temperature, rest)

    def _tangent(self, logits: Tensor, target: int) -> LinearLogOdds:
        with torch.enable_grad():
            value = self(logits, target)
            (shares,) = torch.autograd.grad(value.sum(), logits)
        return LinearLogOdds(shares, value.detach() - (shares * logits.detach()).sum(dim=1))

    def _others(self, logits: Tensor) -> bool:
        return self.exclusive and logits.shape[1] > 1


def explained_in_words(task: Task, target: int) -> str:
    """Name what a map of a class explains: the class, or of ordered classes this one or any above it; or the number."""
    name = task.classes[target]
    return f"{name} or above" if task.ordered and 0 < target < len(task.classes) - 1 else name


def quantity_in_words(task: Task) -> str:
    """Name the quantity that a map explains, for a sentence."""
    return f"the predicted {task.classes[0]} minus the mean of training" if task.numeric else "the log odds"


def explained_probability(task: Task, row: pd.DataFrame, target: int) -> float:
    """Return the probability of :func:`explained_in_words` from the columns ``p_<class>`` of one sample."""
    last = len(task.classes) if task.ordered and target else target + 1
    return float(sum(row[f"p_{name}"][0] for name in task.classes[target:last]))


def _without(logits: Tensor, target: int) -> Tensor:
    """Mask a class with minus infinity."""
    here = torch.arange(logits.shape[1], device=logits.device) == target
    return logits.masked_fill(here, -math.inf)
