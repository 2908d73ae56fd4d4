"""The formula of SeqNorm as it is written, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.seqnorm.module import SeqNormAttention


def seqnorm_reference(
    attention: SeqNormAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parameters: Parameters,
    importance: Tensor | None = None,
) -> Tensor:
    """Evaluate the formula of the module with an importance (B, N); see :meth:`Attention.reference_mix`."""
    importance = torch.ones_like(q[:, 0, :, 0]) if importance is None else importance
    shares = (importance / importance.sum(1, keepdim=True))[:, None, :, None]  # (B, 1, N, 1)

    def normalize(t: Tensor, norm: str) -> Tensor:
        mean = (shares * t).sum(2, keepdim=True)
        std = torch.sqrt((shares * (t - mean) ** 2).sum(2, keepdim=True) + attention.eps)
        gamma, beta = (parameters[f"{norm}.{part}"].view(t.shape[1], 1, t.shape[3]) for part in ("weight", "bias"))
        return gamma * (t - mean) / std + beta

    q, k, v = normalize(q, "q_norm"), normalize(k, "k_norm"), normalize(v, "v_norm")
    return q @ ((shares * k).transpose(2, 3) @ v)
