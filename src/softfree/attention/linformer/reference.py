"""The formula of Linformer as it is written, for tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.linformer.module import LinformerAttention


def linformer_reference(
    attention: LinformerAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters
) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""
    tokens, positions = q.shape[2], math.prod(attention.reference)
    sampled = torch.zeros(tokens, positions, dtype=q.dtype)
    for token in range(tokens):
        at = min(max((token + 0.5) * positions / tokens - 0.5, 0), positions - 1)
        for position in (math.floor(at), math.ceil(at)):
            sampled[token, position] = (1 - abs(at - position)) * positions / tokens
    k, v = parameters["k_maps"] @ (sampled.T @ k), parameters["v_maps"] @ (sampled.T @ v)
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3) @ v
