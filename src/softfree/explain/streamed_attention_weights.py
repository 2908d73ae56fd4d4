"""Q and K of some tokens as an attention weighs them, once its sums over all tokens are known: w_ij = q'_i . k'_j.

In memory the same norms are taken over the tokens at hand (:mod:`~softfree.explain.attention_weights`); here they come
from the sums that a stream has gathered (:mod:`softfree.streaming.attention`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from softfree.attention import Attention, GalerkinAttention, SeqNormAttention, SimaAttention
from softfree.attention.base import narrow_as_autocast, wide_type

Values = tuple[Tensor, ...]


def queries(attention: Attention, h: Tensor, sums: Values, number: Tensor) -> Tensor:
    """Compute q'.

    Args:
        attention: One that can stream.
        h: Some tokens that enter it, (1, n, C).
        sums: Over all tokens, the ``values`` of its form's stats.
        number: Of all tokens, (1, 1).

    Returns:
        (1, H, n, D), float32 or better.
    """
    return attention.split_heads(_part(attention, h, sums, 0))


def keys(attention: Attention, h: Tensor, sums: Values, number: Tensor) -> Tensor:
    """Compute k', with all that is divided by the number of tokens; as :func:`queries`."""
    found = attention.split_heads(_part(attention, h, sums, 1))
    if isinstance(attention, SimaAttention):
        return found
    if isinstance(attention, GalerkinAttention):
        found = attention.k_norm(found)
    return found / number.clamp(min=1)[:, :, None, None]


def _part(attention: Attention, h: Tensor, sums: Values, part: int) -> Tensor:
    """Q (0) or K (1) normalized over all tokens where the method does so, (1, n, C)."""
    own = slice(part * h.shape[-1], (part + 1) * h.shape[-1])
    if isinstance(attention, SeqNormAttention):
        return _seqnorm(attention, h, sums, part, own)
    found = _project(h, attention.qkv.weight[own], None if attention.qkv.bias is None else attention.qkv.bias[own])
    if isinstance(attention, SimaAttention):
        return found / sums[0][..., own].clamp(min=attention.eps)
    return found


def _seqnorm(attention: SeqNormAttention, h: Tensor, sums: Values, part: int, own: slice) -> Tensor:
    p = attention.parameters_for_orders()
    weight, gamma, beta = p.qkv[own], p.gamma[own], p.beta[own]
    if not p.normalized[part]:
        return gamma * _project(h, weight) + beta
    mean, covariance = sums
    wide = weight.to(covariance.dtype)
    variance = ((wide @ covariance) * wide).sum(2).clamp(min=0)  # (1, C)
    return gamma * _project(h - mean.unsqueeze(1), weight) * (variance + p.eps).rsqrt().unsqueeze(1) + beta


def _project(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    narrow, full_precision = narrow_as_autocast(h)
    with full_precision:
        found = F.linear(narrow, weight.to(narrow.dtype), None if bias is None else bias.to(narrow.dtype))
    return found.to(wide_type(h))
