"""Scales and shifts with which SeqNorm imitates softmax, in closed form; the algebra is in docs/how-to/convert.md.

With M_p = kv_p diag(gamma_v) + beta_k m_p^T, where m_p is the mean of V' on image p, one head of SeqNorm gives

    O_p = Q' M_p,        Q' = q diag(gamma_q) + 1 beta_q^T

(gamma_k = 1: another value could be absorbed into gamma_q, beta_q and beta_k). Softmax to first order in its scores
has this form. The best fit for scores of their actual size is a linear least-squares problem in gamma_q and beta_q if
the rest is fixed, another one in beta_k, and a third in gamma_v and beta_v; all need nothing but
:class:`~softfree.conversion.statistics.Statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softfree.attention import SeqNormAttention
from softfree.conversion.statistics import Statistics

# Relative to the mean of a matrix's diagonal: neutralizes features that never vary, and changes nothing else.
RIDGE = 1e-6
# Sweeps of least squares: the first brings most of the gain, and more than five bring little.
SWEEPS = 10


@dataclass(frozen=True)
class Scales:
    """Scales and shifts of all heads, (H, D) each, float64; gamma_k = 1."""

    gamma_q: Tensor
    beta_q: Tensor
    beta_k: Tensor
    gamma_v: Tensor
    beta_v: Tensor


def first_order(moments: Statistics) -> Scales:
    """Match softmax to first order in its scores, averaged over the images."""
    width = moments.q_scale.shape[-1]
    gamma_q = (moments.q_scale * moments.k_scale).mean(0) / width**0.5
    beta_q = (moments.q_shift * moments.k_scale).mean(0) / width**0.5
    return Scales(
        gamma_q, beta_q, _unit_share(moments, gamma_q, beta_q), moments.v_scale.mean(0), moments.v_shift.mean(0)
    )


def _unit_share(moments: Statistics, gamma_q: Tensor, beta_q: Tensor) -> Tensor:
    """Find beta_k (H, D) for which Q' beta_k, the weight of the mean of V, is 1 on average and varies least."""
    spread = gamma_q.unsqueeze(-1) * moments.qq.mean(0) * gamma_q.unsqueeze(-2)  # covariance of Q', (H, D, D)
    direction = _solve(spread, beta_q, ridge=1e-10)
    return direction / (direction * beta_q).sum(-1, keepdim=True)


def least_squares(moments: Statistics, scales: Scales, sweeps: int = SWEEPS) -> Scales:
    """Fit the outputs of the heads to softmax's by alternating least squares."""
    for _ in range(sweeps):
        for step in (_step_q, _step_k, _step_v):
            scales = step(moments, scales)
    return scales


def set_scales(attention: SeqNormAttention, scales: Scales) -> None:
    """Copy scales and shifts to an attention."""
    values = (
        (attention.q_norm, scales.gamma_q, scales.beta_q),
        (attention.k_norm, torch.ones_like(scales.gamma_q), scales.beta_k),
        (attention.v_norm, scales.gamma_v, scales.beta_v),
    )
    with torch.no_grad():
        for norm, gamma, beta in values:
            assert norm.weight is not None
            assert norm.bias is not None
            norm.weight.copy_(gamma.flatten())
            norm.bias.copy_(beta.flatten())


def error(moments: Statistics, scales: Scales) -> Tensor:
    """Compute the mean squared error of SeqNorm's heads over the variance of softmax's, (H,)."""
    content, mean = _content(moments, scales)
    mixed = content + scales.beta_k.unsqueeze(-1) * mean.unsqueeze(-2)
    crossed = (_query_output(moments, scales) * mixed).sum((-2, -1))  # (P, H)
    power = (mixed * (_query_square(moments, scales) @ mixed)).sum((-2, -1))
    variance = moments.o_square.mean(0) - moments.o_mean.mean(0).square()
    return (moments.o_square.sum(-1) - 2 * crossed + power).mean(0) / variance.sum(-1)


def _content(moments: Statistics, scales: Scales) -> tuple[Tensor, Tensor]:
    """Return k^T V' / N (P, H, D, D), and the mean of V' (P, H, D)."""
    return moments.kv * scales.gamma_v.unsqueeze(-2), moments.v_mean * scales.gamma_v + scales.beta_v


def _query_square(moments: Statistics, scales: Scales) -> Tensor:
    """Return Q'^T Q' / N, (P, H, D, D)."""
    scaled = scales.gamma_q.unsqueeze(-1) * moments.qq * scales.gamma_q.unsqueeze(-2)
    return scaled + scales.beta_q.unsqueeze(-1) * scales.beta_q.unsqueeze(-2)


def _query_output(moments: Statistics, scales: Scales) -> Tensor:
    """Return Q'^T O / N, (P, H, D, D)."""
    return scales.gamma_q.unsqueeze(-1) * moments.qo + scales.beta_q.unsqueeze(-1) * moments.o_mean.unsqueeze(-2)


def _step_q(moments: Statistics, scales: Scales) -> Scales:
    """Solve for gamma_q and beta_q, which are independent since q has mean 0."""
    content, mean = _content(moments, scales)
    mixed = content + scales.beta_k.unsqueeze(-1) * mean.unsqueeze(-2)
    square = mixed @ mixed.mT
    gamma_q = _solve((moments.qq * square).sum(0), (moments.qo * mixed).sum((0, -1)))
    beta_q = _solve(square.sum(0), (mixed @ moments.o_mean.unsqueeze(-1)).sum(0).squeeze(-1))
    return replace(scales, gamma_q=gamma_q, beta_q=beta_q)


def _step_k(moments: Statistics, scales: Scales) -> Scales:
    """Solve for beta_k."""
    content, mean = _content(moments, scales)
    square = _query_square(moments, scales)
    left = _query_output(moments, scales) - square @ content
    weight = mean.square().sum(-1)[..., None, None]
    return replace(scales, beta_k=_solve((weight * square).sum(0), (left @ mean.unsqueeze(-1)).sum(0).squeeze(-1)))


def _step_v(moments: Statistics, scales: Scales) -> Scales:
    """Solve for gamma_v and beta_v: two numbers for each feature."""
    mixed = moments.kv + scales.beta_k.unsqueeze(-1) * moments.v_mean.unsqueeze(-2)  # with gamma_v = 1, beta_v = 0
    share = scales.beta_k.unsqueeze(-1)  # (H, D, 1)
    square, output = _query_square(moments, scales), _query_output(moments, scales)
    aa = (mixed * (square @ mixed)).sum((0, -2))
    ab = (mixed * (square @ share)).sum((0, -2))
    bb = (share * (square @ share)).sum((0, -2)).expand_as(aa)
    matrix = torch.stack([torch.stack([aa, ab], -1), torch.stack([ab, bb], -1)], -2)  # (H, D, 2, 2)
    right = torch.stack([(mixed * output).sum((0, -2)), (share * output).sum((0, -2))], -1)
    gamma_v, beta_v = _solve(matrix, right).unbind(-1)
    return replace(scales, gamma_v=gamma_v, beta_v=beta_v)


def _solve(matrix: Tensor, right: Tensor, ridge: float = RIDGE) -> Tensor:
    """Solve (..., n, n) with (..., n), a small ridge on the diagonal."""
    size = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=torch.finfo(matrix.dtype).tiny)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve(matrix + ridge * size[..., None, None] * eye, right)
