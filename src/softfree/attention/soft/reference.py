"""The formula of SOFT and SOFT++ as it is written, for tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.soft.module import SoftAttention


def soft_reference(attention: SoftAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a.unsqueeze(3) - b.unsqueeze(2)).square().sum(4) / (2 * math.sqrt(q.shape[3]))).exp()

    tokens, number = q.shape[2], min(attention.landmarks, q.shape[2])
    windows = [[n for n in range(tokens) if n * number // tokens == m] for m in range(number)]
    landmarks = torch.stack([q[:, :, window].mean(2) for window in windows], dim=2)
    a, p = kernel(landmarks, landmarks), kernel(landmarks, q)
    inverse = torch.linalg.inv(a + attention.ridge * torch.eye(number, dtype=a.dtype))
    if attention.normalized:
        d = torch.diag_embed(a.sum(3).rsqrt())
        inverse = d @ inverse @ d
    return p.transpose(2, 3) @ (inverse @ (p @ v))
