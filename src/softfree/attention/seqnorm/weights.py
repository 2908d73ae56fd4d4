"""Weighted sums of rows of SeqNorm's attention weights from the moments of the tokens, without computing Q or K."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from softfree.attention.base import narrow_as_autocast
from softfree.attention.moments import count, moments, total_weight
from softfree.attention.seqnorm.orders import scale_and_shift

if TYPE_CHECKING:
    from softfree.attention.seqnorm.module import SeqNormAttention


def gram_rows(attention: SeqNormAttention, x: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """Return (u^T Q') K'^T / N, (B, H, N), with Q' = (X - mean X) W_q^T diag(a_q) + 1 b_q^T, and K' likewise.

    a and b as in :mod:`softfree.attention.seqnorm.orders`: N C^2 multiply-adds for the covariance of the tokens, the
    rest grows with N C H.
    """
    p = attention.parameters_for_orders()
    narrow, full_precision = narrow_as_autocast(x)
    with full_precision:
        important = attention.token_weights(narrow, mask)
        _, mean, covariance = moments(narrow, mask, important)
        centered = narrow.to(mean.dtype) - mean.unsqueeze(1)  # (B, N, C)
        qkv = p.qkv.to(mean.dtype)
        variance = ((qkv @ covariance) * qkv).sum(2).clamp(min=0)  # (B, 3C)
        scale, shift = scale_and_shift(variance, mean, p)
        (w_q, w_k, _), (a_q, a_k, _), (b_q, b_k, _) = qkv.chunk(3), scale.chunk(3, dim=1), shift.chunk(3, dim=1)
        query = (weights.unsqueeze(1) @ centered).squeeze(1) @ w_q.mT * a_q + weights.sum(1, keepdim=True) * b_q
        heads = (p.num_heads, attention.head_dim)
        on_input = (query * a_k).unflatten(1, heads).unsqueeze(2) @ w_k.unflatten(0, heads)  # (B, H, 1, C)
        constant = (query * b_k).unflatten(1, heads).sum(2, keepdim=True)  # (B, H, 1)
        shares = 1 / count(x, mask) if important is None else important / total_weight(important)  # (B or 1, 1 or N)
        rows = (on_input.squeeze(2) @ centered.mT + constant) * shares.unsqueeze(1)
    return rows if mask is None else rows.masked_fill(~mask.unsqueeze(1), 0)
