"""Several trained classifiers used as one: the mean of their calibrated logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from softfree.core.options import Precision, StreamOptions
from softfree.streaming.adaptive import AdaptiveForward
from softfree.streaming.image_rows import Rows

Scalar = float | np.ndarray
"""A number for all outputs, or one for each (K,)."""


class Ensemble(nn.Module):
    """The mean over members of their logits divided by their temperatures; of a regression, on one scale.

    Members run one after the other, so that the activations of only one are in memory.

    Args:
        members: Classifiers of the same inputs and classes.
        temperatures: Their temperatures, chosen on the samples that each was not trained on; of several targets (K,).
        shifts: Of a regression, what the outputs of each member lie above the ensemble's, because of the means that
            their targets were standardized by; default: 0.
    """

    def __init__(
        self, members: Sequence[nn.Module], temperatures: Sequence[Scalar], shifts: Sequence[Scalar] | None = None
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperatures = tuple(temperatures)
        self.shifts = tuple(shifts or (0.0,) * len(self.temperatures))

    def forward(self, samples: Tensor) -> Tensor:
        """Map samples (B, ...) to logits (B, K)."""
        logits = calibrated([member(samples) for member in self.members], self.temperatures, self.shifts)
        return torch.stack(logits).mean(dim=0)


class AdaptiveEnsemble:
    """An ensemble of which each member runs whole or streamed, as :class:`AdaptiveForward` decides."""

    def __init__(
        self,
        ensemble: Ensemble,
        options: StreamOptions,
        precision: Precision = "fp32",
        *,
        progress: bool = False,
        watched: bool = False,
    ) -> None:
        self.members = [
            AdaptiveForward(member, options, precision, progress=progress, watched=watched)
            for member in ensemble.members
        ]
        self.temperatures, self.shifts = ensemble.temperatures, ensemble.shifts

    def __call__(self, samples: Tensor) -> Tensor:
        """Return the calibrated logits of each member, (B, M, K); the ensemble's are their mean."""
        return self._stacked([member(samples) for member in self.members])

    def of_rows(self, sample: Rows) -> Tensor:
        """Return the same, (1, M, K), for an image that is read in bands, once for each member."""
        return self._stacked([member.of_rows(sample) for member in self.members])

    def _stacked(self, logits: Sequence[Tensor]) -> Tensor:
        return torch.stack(calibrated(logits, self.temperatures, self.shifts), dim=1)

    def take_token_means(self) -> list[Tensor]:
        """Return the mean tokens (B, C) of all samples since the last call, for each member."""
        return [means for member in self.members for means in member.take_token_means()]

    def why_not_rows(self) -> str:
        """Explain why an image cannot be read in bands; empty if it can."""
        return next((reason for member in self.members if (reason := member.why_not_rows())), "")


def adaptive_forward(
    model: nn.Module, options: StreamOptions, precision: Precision, *, progress: bool = False, watched: bool = False
) -> AdaptiveForward | AdaptiveEnsemble:
    """Return the forward pass of a classifier or an ensemble for samples of any size."""
    kind = AdaptiveEnsemble if isinstance(model, Ensemble) else AdaptiveForward
    return kind(model, options, precision, progress=progress, watched=watched)  # type: ignore[arg-type]


def calibrated(logits: Sequence[Tensor], temperatures: Sequence[Scalar], shifts: Sequence[Scalar]) -> list[Tensor]:
    """Divide the logits of each member by its temperature and add its shift, in float32 or wider."""
    divided = (
        values.to(torch.promote_types(values.dtype, torch.float32)) / _on(values, temperature)
        for values, temperature in zip(logits, temperatures, strict=True)
    )
    return [
        values + _on(values, shift) if np.any(shift) else values for values, shift in zip(divided, shifts, strict=True)
    ]


def _on(values: Tensor, factor: Scalar) -> float | Tensor:
    """Return a number as it is, and one for each output as a tensor like ``values``."""
    if isinstance(factor, float):
        return factor
    return torch.as_tensor(factor, dtype=torch.promote_types(values.dtype, torch.float32), device=values.device)
