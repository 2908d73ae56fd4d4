"""What every map explains: the log odds of a class, log p / (1 - p) of its calibrated probability p.

They are above zero exactly where p is above a half. A logit is not: adding one number to all logits of a softmax
changes no probability, so that the sign of a single one means nothing. With u = z / T, the logits over the temperature,

    L_c = u_c - log sum_{j != c} exp u_j        where classes exclude each other,
    L_c = u_c                                   where they do not, or there is a single output.

As a sum over logits, exact at the logits where it is taken,

    L_c = sum_j a_j z_j - H,    a_c = 1 / T,  a_j = -b_j / T,  b = softmax of the other classes' u,

where H is the entropy of b, between 0 and log(K - 1); a is also the gradient of L_c by the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from softfree.inference.run import Run


class OfLogits(NamedTuple):
    """Log odds as a sum over logits: ``(shares * logits).sum(1) + rest``.

    Attributes:
        shares: float64 (B, K), what a logit counts.
        rest: float64 (B,), minus the entropy among the other classes.
    """

    shares: Tensor
    rest: Tensor


@dataclass(frozen=True)
class LogOdds:
    """How the probabilities follow from the logits.

    Attributes:
        exclusive: exactly one class holds (softmax); otherwise any number of findings (sigmoid).
        temperature: the logits are divided by it.
    """

    exclusive: bool = True
    temperature: float = 1.0

    @classmethod
    def of(cls, model: Run | nn.Module) -> LogOdds:
        """Of a run as it was calibrated; a bare model is taken for one of exclusive classes at temperature 1."""
        return cls() if isinstance(model, nn.Module) else cls(model.task.exclusive, model.calibration.temperature)

    def __call__(self, logits: Tensor, target: int) -> Tensor:
        """Give the log odds (B,) of a class from logits (B, K); differentiable."""
        scaled = logits / self.temperature
        if not self._others(scaled):
            return scaled[:, target]
        return scaled[:, target] - _without(scaled, target).logsumexp(dim=1)

    def of_logits(self, logits: Tensor, target: int) -> OfLogits:
        """Write the log odds of a class as a sum over logits (B, K)."""
        scaled = logits.detach().double() / self.temperature
        shares = torch.zeros_like(scaled)
        rest = shares.sum(dim=1)
        if self._others(scaled):
            others = _without(scaled, target).softmax(dim=1)  # 0 at the class
            shares, rest = -others, torch.special.entr(others).sum(dim=1).neg()
        shares[:, target] = 1
        return OfLogits(shares / self.temperature, rest)

    def _others(self, logits: Tensor) -> bool:
        return self.exclusive and logits.shape[1] > 1


def _without(logits: Tensor, target: int) -> Tensor:
    """Put a class below everything."""
    here = torch.arange(logits.shape[1], device=logits.device) == target
    return logits.masked_fill(here, -math.inf)
