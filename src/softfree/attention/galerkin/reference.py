"""The formula of Galerkin attention as it is written, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.galerkin.module import GalerkinAttention


def galerkin_reference(attention: GalerkinAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""

    def normalize(t: Tensor, norm: str) -> Tensor:
        mean = t.mean(3, keepdim=True)
        std = torch.sqrt(((t - mean) ** 2).mean(3, keepdim=True) + attention.k_norm.eps)
        gamma, beta = (parameters[f"{norm}.{part}"].view(t.shape[1], 1, t.shape[3]) for part in ("weight", "bias"))
        return gamma * (t - mean) / std + beta

    return q @ (normalize(k, "k_norm").transpose(2, 3) @ normalize(v, "v_norm")) / q.shape[2]
