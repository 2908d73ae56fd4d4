"""What every map explains: the log odds of a class, log p / (1 - p) of its calibrated probability p.

They are above zero exactly where p is above one half. Logits are not: adding a constant to all logits of a softmax
changes no probability, so the sign of a single logit means nothing. With u = z / T, the logits divided by temperature,

    L_c = u_c - log sum_{j != c} exp u_j        where classes exclude each other,
    L_c = u_c                                   where they do not, or there is a single output.

As a sum over logits, exact where it is taken,

    L_c = sum_j a_j z_j - H,    a_c = 1 / T,  a_j = -b_j / T,  b = softmax of the other classes' u,

where H is the entropy of b, between 0 and log(K - 1); a is also the gradient of L_c with respect to the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from softfree.inference.run import Run


class LinearLogOdds(NamedTuple):
    """Log odds as a sum over logits: ``(shares * logits).sum(1) + rest``.

    Attributes:
        shares: float64 (B, K), weights of the logits.
        rest: float64 (B,), minus the entropy among the other classes.
    """

    shares: Tensor
    rest: Tensor


@dataclass(frozen=True)
class LogOdds:
    """How the probabilities follow from the logits.

    Attributes:
        exclusive: Exactly one class holds (softmax); otherwise any number of findings (sigmoid).
        temperature: The logits are divided by it.
    """

    exclusive: bool = True
    temperature: float = 1.0

    @classmethod
    def of(cls, model: Run | nn.Module) -> LogOdds:
        """For a run, with its calibration; for a bare model, exclusive classes at temperature 1."""
        return cls() if isinstance(model, nn.Module) else cls(model.task.exclusive, model.calibration.temperature)

    def __call__(self, logits: Tensor, target: int) -> Tensor:
        """Compute the log odds (B,) of a class from logits (B, K); differentiable."""
        scaled = logits / self.temperature
        if not self._others(scaled):
            return scaled[:, target]
        return scaled[:, target] - _without(scaled, target).logsumexp(dim=1)

    def linearize(self, logits: Tensor, target: int) -> LinearLogOdds:
        """Write the log odds of a class as a sum over logits (B, K)."""
        scaled = logits.detach().double() / self.temperature
        shares = torch.zeros_like(scaled)
        rest = shares.sum(dim=1)
        if self._others(scaled):
            others = _without(scaled, target).softmax(dim=1)  # 0 at the class
            shares, rest = -others, torch.special.entr(others).sum(dim=1).neg()
        shares[:, target] = 1
        return LinearLogOdds(shares / self.temperature, rest)

    def _others(self, logits: Tensor) -> bool:
        return self.exclusive and logits.shape[1] > 1


def _without(logits: Tensor, target: int) -> Tensor:
    """Mask a class with minus infinity."""
    here = torch.arange(logits.shape[1], device=logits.device) == target
    return logits.masked_fill(here, -math.inf)
