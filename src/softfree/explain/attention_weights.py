"""Rows of an attention's weights, and sums of them, for any method, without an N x N matrix.

With Q and K fixed every method here is linear in its values, o_i = sum_j w_ij v_j, so that w_ij is the derivative of a
feature of o_i by the same feature of v_j: one backward pass by the values gives a whole row, or a weighted sum of rows,
in the time of that pass. SeqNorm and Galerkin are linear in the values after their normalization, and their rows are
q'_i . k'_j / N. Where SeqNorm attends in the Gram order, its rows come from the moments of the tokens, too, and neither
Q nor K is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.attention import Attention, GalerkinAttention, SeqNormAttention
from softfree.attention.base import Grid, narrow_as_autocast, wide_type
from softfree.attention.seqnorm.moments import count, moments
from softfree.attention.seqnorm.orders import scale_and_shift

MEANING = (
    "Attention: the signed weights with which one layer mixes values for one token; not what those values hold by "
    "then, nor what later layers make of them, and it is the same for every class."
)


def attention_row(
    attention: Attention, x: Tensor, query: int, mask: Tensor | None = None, grid: Grid | None = None
) -> Tensor:
    """Compute how much each token counts in the result of one, in each head.

    What it says: the weights with which this layer mixes values, negative ones included. What it does not: what those
    values hold by then, nor what later layers make of them.

    Args:
        attention: In evaluation mode.
        x: Its input (B, N, C).
        query: Number of the token whose row is wanted.
        mask: True for real tokens (B, N), or None for all.
        grid: As :meth:`~softfree.attention.Attention.forward` has it.

    Returns:
        (B, H, N), float32 or better; 0 for padded tokens.
    """
    one = torch.zeros(x.shape[:2], dtype=wide_type(x), device=x.device)
    one[:, query] = 1
    return weighted_rows(attention, x, one, mask, grid)


def weighted_rows(
    attention: Attention, x: Tensor, weights: Tensor, mask: Tensor | None = None, grid: Grid | None = None
) -> Tensor:
    """Compute ``u^T W`` for the attention weights W (N x N) of each head, which are never made.

    Args:
        attention: In evaluation mode.
        x: Its input (B, N, C).
        weights: u, (B, N), float32 or better; 0 for padded tokens.
        mask: True for real tokens (B, N), or None for all.
        grid: As :meth:`~softfree.attention.Attention.forward` has it.

    Returns:
        (B, H, N), float32 or better; 0 for padded tokens.
    """
    heads = None if mask is None else mask[:, None, :, None]  # (B, 1, N, 1)
    with torch.no_grad():
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        if isinstance(attention, SeqNormAttention) and attention.order_for(x) == "gram":
            return _gram(attention, x, weights, mask)
        parts = attention.qkv(x).to(wide_type(x)).split(x.shape[-1], dim=-1)
        q, *k, _ = (attention.split_heads(part) for part in parts)  # (B, H, N, D)
        keys = k[0] if k else q
        if isinstance(attention, SeqNormAttention):
            counted = attention.counted(q, heads)
            return _dot(attention.q_norm(q, heads, counted), attention.k_norm(keys, heads, counted), weights, heads)
        if isinstance(attention, GalerkinAttention):
            return _dot(q, attention.k_norm(keys), weights, heads)
    with torch.enable_grad():
        values = torch.zeros_like(q, requires_grad=True)
        out = (attention.mix(q.detach(), keys.detach(), values, heads, grid)[..., 0] * weights.unsqueeze(1)).sum()
    (row,) = torch.autograd.grad(out, values)
    row = row[..., 0].detach()
    return row if mask is None else row.masked_fill(~mask.unsqueeze(1), 0)


def _dot(q: Tensor, k: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """(u^T Q) K^T / N, (B, H, N)."""
    if mask is not None:
        k = k.masked_fill(~mask, 0)
    tokens = q.shape[2] if mask is None else mask.sum(dim=2, keepdim=True).clamp(min=1)
    row: Tensor = weights[:, None, None] @ q @ k.mT / tokens  # (B, H, 1, N)
    return row.squeeze(2)


def _gram(attention: SeqNormAttention, x: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """(u^T Q') K'^T / N, (B, H, N), with Q' = (X - mean X) W_q^T diag(a_q) + 1 b_q^T, and K' likewise.

    a and b as in :mod:`softfree.attention.seqnorm.orders`: N C^2 multiply-adds for the covariance of the tokens, the
    rest grows with N C H.
    """
    p = attention.parameters_for_orders()
    narrow, full_precision = narrow_as_autocast(x)
    with full_precision:
        _, mean, covariance = moments(narrow, mask)
        centered = narrow.to(mean.dtype) - mean.unsqueeze(1)  # (B, N, C)
        qkv = p.qkv.to(mean.dtype)
        variance = ((qkv @ covariance) * qkv).sum(2).clamp(min=0)  # (B, 3C)
        scale, shift = scale_and_shift(variance, mean, p)
        (w_q, w_k, _), (a_q, a_k, _), (b_q, b_k, _) = qkv.chunk(3), scale.chunk(3, dim=1), shift.chunk(3, dim=1)
        looked = (weights.unsqueeze(1) @ centered).squeeze(1) @ w_q.mT * a_q + weights.sum(1, keepdim=True) * b_q
        heads = (p.num_heads, attention.head_dim)
        turned = (looked * a_k).unflatten(1, heads).unsqueeze(2) @ w_k.unflatten(0, heads)  # (B, H, 1, C)
        constant = (looked * b_k).unflatten(1, heads).sum(2, keepdim=True)  # (B, H, 1)
        row = (turned.squeeze(2) @ centered.mT + constant) / count(x, mask).unsqueeze(2)
    return row if mask is None else row.masked_fill(~mask.unsqueeze(1), 0)
