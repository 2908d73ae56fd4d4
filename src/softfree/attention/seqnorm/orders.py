"""Three ways to evaluate SeqNorm, equal up to rounding, with the same parameters; see docs/explanation/seqnorm.md.

Each of Q, K, V is T' = (T - mean T) diag(a_t) + 1 b_t^T: with a_t = gamma_t / sqrt(var_t + eps) and b_t = beta_t
if it is normalized, with a_t = gamma_t and b_t = beta_t + gamma_t * mean T if it is not. Summed over the tokens,

    M_h = diag(a_k) Cov(K_h, V_h) diag(a_v) + b_k b_v^T                    (D x D: the centered parts sum to zero)
    O_h = (Q_h - mean Q_h) diag(a_q) M_h + 1 b_q^T M_h,       Y = concat_h(O_h) Wo^T + bo

- folded: Q, K and V are computed from the centered tokens, and nothing of their size is normalized.
- gram: Q, K and V are never computed. With S the covariance of the tokens and R_h = diag(a_q) M_h Wo_h^T (D x C),
  var_t = diag(W_t S W_t^T), Cov(K_h, V_h) = W_k,h S W_v,h^T, c = sum_h b_q^T M_h Wo_h^T + bo, and
  Y = (X - mean X) (sum_h W_q,h^T R_h) + 1 c^T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import mean_product, wide_type
from softfree.attention.moments import affine, count, moments, relative, sum_of_squares, total_weight


class Parameters(NamedTuple):
    """Parameters of a SeqNorm attention for the fast orders: weights as in torch.nn.Linear, 1-D scales and shifts."""

    num_heads: int
    qkv: Tensor  # (3C, C)
    proj: Tensor  # (C, C)
    proj_bias: Tensor | None  # (C,)
    gamma: Tensor  # (3C,)
    beta: Tensor  # (3C,)
    eps: float
    normalized: tuple[bool, bool, bool]  # Q, K, V


def gram(x: Tensor, mask: Tensor | None, parameters: Parameters, weights: Tensor | None = None) -> Tensor:
    """Compute the result from the moments of the tokens: 2 N C^2 + 4 C^3 + 2 C^2 D multiply-adds; keeps only X.

    Args:
        x: Tokens (B, N, C).
        mask: True for real tokens (B, N), or None for all.
        parameters: Parameters of the attention.
        weights: Importance of the tokens (B, N), or None if it is equal.

    Returns:
        (B, N, C).
    """
    x, mean, covariance = moments(x, mask, weights)
    return affine(x, mean, *mix_moments(mean, covariance, parameters), mask)


def mix_moments(mean: Tensor, covariance: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Compute the map of each token in the Gram order: ``Y = (X - mean) A + 1 c^T``.

    Args:
        mean: Mean of the tokens, (B, C), float32 or better.
        covariance: Biased covariance of the tokens, (B, C, C).
        parameters: Parameters of the attention.

    Returns:
        A (B, C, C) and c (B, C).
    """
    qkv = parameters.qkv.to(covariance.dtype)
    q, _, v = qkv.chunk(3)  # (C, C) each
    product = qkv @ covariance  # (B, 3C, C)
    variance = (product * qkv).sum(2).clamp(min=0)  # (B, 3C)
    k_product = product.chunk(3, dim=1)[1]
    cross = _rows_by_head(k_product, parameters.num_heads) @ _rows_by_head(v, parameters.num_heads).mT  # (B, H, D, D)
    mixing, constant = project(*fold(variance, cross, mean, parameters), parameters)
    return q.mT @ mixing, constant


def folded(x: Tensor, mask: Tensor | None, parameters: Parameters, weights: Tensor | None = None) -> Tensor:
    """Compute the result from Q, K and V without normalized copies of them: 4 N C^2 + 2 N C D multiply-adds.

    Args:
        x: Tokens (B, N, C).
        mask: True for real tokens (B, N), or None for all.
        parameters: Parameters of the attention.
        weights: Importance of the tokens (B, N), or None if it is equal.

    Returns:
        (B, N, C).
    """
    wide = wide_type(x)
    if mask is not None:
        x = x.masked_fill(~mask.unsqueeze(-1), 0)
    weights = None if weights is None else relative(weights)
    column = None if weights is None else weights.unsqueeze(-1)  # (B, N, 1)
    number = count(x, mask) if weights is None else total_weight(weights)  # (B, 1) or (1, 1)
    mean = x.sum(1, dtype=wide) / number if column is None else (x * column).sum(1) / number
    centered = (x - mean.unsqueeze(1)).to(x.dtype)
    if mask is not None:
        centered = centered.masked_fill(~mask.unsqueeze(-1), 0)
    qkv = F.linear(centered, parameters.qkv.to(x.dtype))  # (B, N, 3C), of mean zero
    squares = sum_of_squares(qkv) if column is None else (qkv.to(wide).square() * column).sum(1)
    variance = squares / number  # (B, 3C)
    q, k, v = qkv.chunk(3, dim=-1)
    if column is not None:
        k = (k * column).to(k.dtype)
    q, k, v = (_columns_by_head(t, parameters.num_heads) for t in (q, k, v))  # (B, H, N, D)
    mixing, constant = fold(variance, mean_product(k, v, number.view(-1, 1, 1, 1)), mean, parameters)
    out = q @ mixing.to(x.dtype) + constant.to(x.dtype)  # (B, H, N, D)
    bias = None if parameters.proj_bias is None else parameters.proj_bias.to(x.dtype)
    return F.linear(out.transpose(1, 2).flatten(2), parameters.proj.to(x.dtype), bias)


def fold(variance: Tensor, cross: Tensor, mean: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Fold the normalization of Q, K and V and all scales and shifts into the D x D products.

    Args:
        variance: Variance of q, k, v, (B, 3C).
        cross: Cov(K_h, V_h), (B, H, D, D).
        mean: Mean of the tokens, (B, C).
        p: Parameters of the attention.

    Returns:
        diag(a_q) M_h (B, H, D, D) and b_q^T M_h (B, H, 1, D): O_h is the centered Q_h times the first plus the second.
    """
    scale, shift = scale_and_shift(variance, mean, p)
    a_q, a_k, a_v = (t.unflatten(-1, (p.num_heads, -1)) for t in scale.chunk(3, dim=-1))  # (B, H, D)
    b_q, b_k, b_v = (t.unflatten(-1, (p.num_heads, -1)) for t in shift.chunk(3, dim=-1))  # (B or 1, H, D)
    mixed = a_k.unsqueeze(-1) * cross * a_v.unsqueeze(-2) + b_k.unsqueeze(-1) * b_v.unsqueeze(-2)
    return a_q.unsqueeze(-1) * mixed, b_q.unsqueeze(-2) @ mixed


def scale_and_shift(variance: Tensor, mean: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Return a (B, 3C) and b (B or 1, 3C) of the module's first formula."""
    gamma, beta = p.gamma.to(variance.dtype), p.beta.to(variance.dtype).unsqueeze(0)
    root = (variance + p.eps).rsqrt()
    if all(p.normalized):
        return gamma * root, beta
    normalized = torch.tensor(p.normalized, device=mean.device).repeat_interleave(mean.shape[-1])  # (3C,)
    means = F.linear(mean, p.qkv.to(mean.dtype))  # (B, 3C)
    return gamma * root.where(normalized, 1), beta + gamma * means.where(~normalized, 0)


def project(mixing: Tensor, constant: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Fold the output projection into the results of :func:`fold`.

    Returns:
        R (B, C, C), D rows per head, and c (B, C).
    """
    proj = _columns_by_head(p.proj.to(mixing.dtype), p.num_heads).mT  # (H, D, C)
    constant = (constant @ proj).sum(dim=(1, 2))
    if p.proj_bias is not None:
        constant = constant + p.proj_bias
    return (mixing @ proj).flatten(1, 2), constant


def _rows_by_head(t: Tensor, num_heads: int) -> Tensor:
    """Reshape (..., C, any) to (..., H, D, any)."""
    return t.unflatten(-2, (num_heads, -1))


def _columns_by_head(t: Tensor, num_heads: int) -> Tensor:
    """Reshape (..., any, C) to (..., H, any, D)."""
    return t.unflatten(-1, (num_heads, -1)).transpose(-3, -2)
