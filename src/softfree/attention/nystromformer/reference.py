"""The formula of Nyströmformer as it is written, for tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.nystromformer.module import NystromformerAttention


def nystromformer_reference(
    attention: NystromformerAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters
) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""
    tokens, number = q.shape[2], min(attention.landmarks, q.shape[2])
    windows = [[n for n in range(tokens) if n * number // tokens == m] for m in range(number)]
    q_means, k_means = (torch.stack([t[:, :, window].mean(2) for window in windows], dim=2) for t in (q, k))
    first, middle, last = (
        (a @ b.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
        for a, b in ((q, k_means), (q_means, k_means), (q_means, k))
    )
    one = torch.eye(number, dtype=q.dtype)
    z = middle.transpose(2, 3) / (middle.sum(2).amax(2) * middle.sum(3).amax(2))[..., None, None]
    for _step in range(attention.iterations):
        z = z @ (13 * one - middle @ z @ (15 * one - middle @ z @ (7 * one - middle @ z))) / 4
    return first @ (z @ (last @ v))
