"""Scales and shifts with which SeqNorm imitates softmax, by formulas alone; the algebra is in docs/how-to/convert.md.

With M_p = diag(gamma_v) on the right of kv_p plus beta_k m_p^T, where m_p is the mean of V' on image p, one head
of SeqNorm gives

    O_p = Q' M_p,        Q' = q diag(gamma_q) + 1 beta_q^T

(gamma_k = 1: another value could be shared out to gamma_q, beta_q and beta_k). Softmax to first order in its scores
is of this form. What is best for scores as large as they are is a linear least-squares problem in gamma_q and beta_q
when the rest is given, another one in beta_k, a third in gamma_v and beta_v; all need nothing but
:class:`~softfree.conversion.statistics.Statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softfree.attention import SeqNormAttention
from softfree.conversion.statistics import Statistics

# Of the mean of a matrix's diagonal: keeps features that never vary out of the way, and changes nothing else.
RIDGE = 1e-6
# Of least squares; most is won in the first, and little after five.
SWEEPS = 10


@dataclass(frozen=True)
class Scales:
    """Scales and shifts of all heads, (H, D) each, float64; gamma_k = 1."""

    gamma_q: Tensor
    beta_q: Tensor
    beta_k: Tensor
    gamma_v: Tensor
    beta_v: Tensor


def first_order(seen: Statistics) -> Scales:
    """Match softmax to first order in its scores, averaged over the images."""
    width = seen.q_scale.shape[-1]
    gamma_q = (seen.q_scale * seen.k_scale).mean(0) / width**0.5
    beta_q = (seen.q_shift * seen.k_scale).mean(0) / width**0.5
    return Scales(gamma_q, beta_q, _unit_share(seen, gamma_q, beta_q), seen.v_scale.mean(0), seen.v_shift.mean(0))


def _unit_share(seen: Statistics, gamma_q: Tensor, beta_q: Tensor) -> Tensor:
    """Find beta_k (H, D) such that Q' beta_k, a token's share of the mean of V, is 1 on average and varies least."""
    spread = gamma_q.unsqueeze(-1) * seen.qq.mean(0) * gamma_q.unsqueeze(-2)  # covariance of Q', (H, D, D)
    steered = _solve(spread, beta_q, ridge=1e-10)
    return steered / (steered * beta_q).sum(-1, keepdim=True)


def least_squares(seen: Statistics, scales: Scales, sweeps: int = SWEEPS) -> Scales:
    """Bring the outputs of the heads closer to softmax's, each step the best one with the others' values given."""
    for _ in range(sweeps):
        for step in (_step_q, _step_k, _step_v):
            scales = step(seen, scales)
    return scales


def set_scales(attention: SeqNormAttention, scales: Scales) -> None:
    """Write scales and shifts into an attention."""
    chosen = (
        (attention.q_norm, scales.gamma_q, scales.beta_q),
        (attention.k_norm, torch.ones_like(scales.gamma_q), scales.beta_k),
        (attention.v_norm, scales.gamma_v, scales.beta_v),
    )
    with torch.no_grad():
        for norm, gamma, beta in chosen:
            assert norm.weight is not None
            assert norm.bias is not None
            norm.weight.copy_(gamma.flatten())
            norm.bias.copy_(beta.flatten())


def error(seen: Statistics, scales: Scales) -> Tensor:
    """Mean square of SeqNorm's heads minus softmax's, over that of softmax's minus their mean, (H,)."""
    content, mean = _content(seen, scales)
    mixed = content + scales.beta_k.unsqueeze(-1) * mean.unsqueeze(-2)
    crossed = (_query_output(seen, scales) * mixed).sum((-2, -1))  # (P, H)
    own = (mixed * (_query_square(seen, scales) @ mixed)).sum((-2, -1))
    spread = seen.o_square.mean(0) - seen.o_mean.mean(0).square()
    return (seen.o_square.sum(-1) - 2 * crossed + own).mean(0) / spread.sum(-1)


def _content(seen: Statistics, scales: Scales) -> tuple[Tensor, Tensor]:
    """k^T V' / N (P, H, D, D), and the mean of V' (P, H, D)."""
    return seen.kv * scales.gamma_v.unsqueeze(-2), seen.v_mean * scales.gamma_v + scales.beta_v


def _query_square(seen: Statistics, scales: Scales) -> Tensor:
    """Q'^T Q' / N, (P, H, D, D)."""
    scaled = scales.gamma_q.unsqueeze(-1) * seen.qq * scales.gamma_q.unsqueeze(-2)
    return scaled + scales.beta_q.unsqueeze(-1) * scales.beta_q.unsqueeze(-2)


def _query_output(seen: Statistics, scales: Scales) -> Tensor:
    """Q'^T O / N, (P, H, D, D)."""
    return scales.gamma_q.unsqueeze(-1) * seen.qo + scales.beta_q.unsqueeze(-1) * seen.o_mean.unsqueeze(-2)


def _step_q(seen: Statistics, scales: Scales) -> Scales:
    """The best gamma_q and beta_q. They do not disturb each other, since q has mean 0."""
    content, mean = _content(seen, scales)
    mixed = content + scales.beta_k.unsqueeze(-1) * mean.unsqueeze(-2)
    square = mixed @ mixed.mT
    gamma_q = _solve((seen.qq * square).sum(0), (seen.qo * mixed).sum((0, -1)))
    beta_q = _solve(square.sum(0), (mixed @ seen.o_mean.unsqueeze(-1)).sum(0).squeeze(-1))
    return replace(scales, gamma_q=gamma_q, beta_q=beta_q)


def _step_k(seen: Statistics, scales: Scales) -> Scales:
    """The best beta_k."""
    content, mean = _content(seen, scales)
    square = _query_square(seen, scales)
    left = _query_output(seen, scales) - square @ content
    weight = mean.square().sum(-1)[..., None, None]
    return replace(scales, beta_k=_solve((weight * square).sum(0), (left @ mean.unsqueeze(-1)).sum(0).squeeze(-1)))


def _step_v(seen: Statistics, scales: Scales) -> Scales:
    """The best gamma_v and beta_v: two numbers for each feature."""
    mixed = seen.kv + scales.beta_k.unsqueeze(-1) * seen.v_mean.unsqueeze(-2)  # with gamma_v = 1, beta_v = 0
    share = scales.beta_k.unsqueeze(-1)  # (H, D, 1)
    square, output = _query_square(seen, scales), _query_output(seen, scales)
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
