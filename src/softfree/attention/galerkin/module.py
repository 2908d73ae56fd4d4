"""Galerkin attention (Cao 2021, "Choose a transformer: Fourier or Galerkin", arXiv:2105.14995).

Keys and values are normalized token by token over the D features of a head; there is no softmax:

    O_h = Q_h (K~_h^T V~_h) / n,    T~ = gamma_h * (T - mean_d T) / sqrt(var_d T + eps) + beta_h

with eps = 1e-5, the biased variance, and a scale and shift (D) for each head. The variant of the official code that
normalizes over the tokens instead ('instance') is ``SeqNormAttention(normalized="kv", init="unit")``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Attention, Grid, dot_rows, mean_product, wide_type, widen
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.galerkin.cost import galerkin_cost
from softfree.attention.galerkin.reference import galerkin_reference
from softfree.attention.galerkin.streaming import StreamingGalerkin
from softfree.attention.registry import register_attention


@register_attention("galerkin")
class GalerkinAttention(Attention):
    """``O_h = Q_h (K~_h^T V~_h) / n`` with K and V normalized over the D features of a head; time grows with N.

    A class token is treated like any other token: it enters the sum and n. The grid is ignored.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        diagonal_init: Initialize the projections of Q, K and V as the official code does: see :meth:`init_diagonal`.
        eps: Added to the variance.
        **options: See :class:`~softfree.attention.base.Attention`.
    """

    streaming = StreamingGalerkin
    reference_mix = galerkin_reference

    def __init__(
        self, dim: int, num_heads: int = 8, *, diagonal_init: bool = False, eps: float = 1e-5, **options: Any
    ) -> None:
        super().__init__(dim, num_heads, **options)
        factory_options: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.k_norm = HeadNorm(num_heads, self.head_dim, eps=eps, **factory_options)
        self.v_norm = HeadNorm(num_heads, self.head_dim, eps=eps, **factory_options)
        self.diagonal_init = diagonal_init
        self.init_projections()

    def init_projections(self) -> None:
        """Initialize the projections as the official code does, with ``diagonal_init``."""
        if self.diagonal_init:
            self.init_diagonal()

    @torch.no_grad()
    def init_diagonal(self, diagonal: float = 1e-2, gain: float = 1e-4) -> None:
        """Set the projections of Q, K and V to ``diagonal`` times the identity plus Xavier noise of ``gain``.

        Meant for operator learning, where the input is a good basis; biases become zero.
        """
        for weight in self.qkv.weight.chunk(3):  # (C, C)
            nn.init.xavier_uniform_(weight, gain=gain)
            weight.diagonal().add_(diagonal)
        if self.qkv.bias is not None:
            nn.init.zeros_(self.qkv.bias)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix by the formula of the module, the D x D product first; n counts real tokens."""
        number: Tensor | float = q.shape[2]
        k, v = self.k_norm(k), self.v_norm(v)
        if mask is not None:
            k = k.masked_fill(~mask, 0)  # the other factor may hold anything finite
            number = mask.sum(2, keepdim=True).clamp(min=1).to(wide_type(k))
        return q @ mean_product(k, v, number).to(q.dtype)

    @torch.no_grad()
    def weighted_rows(self, x: Tensor, weights: Tensor, mask: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Use the weights of the normalized values, ``Q K~^T / N``; see :meth:`Attention.weighted_rows`."""
        q, k, heads = self.queries_and_keys(x, mask)
        return dot_rows(q, self.k_norm(k), weights, heads)

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return galerkin_cost(shape)


class HeadNorm(nn.Module):
    """Layer normalization over the D features of a head, each head with its own scale and shift.

    Args:
        num_heads: H.
        head_dim: D.
        eps: Added to the variance.
        device: Device of the parameters.
        dtype: Their type.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        eps: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.per_head = (num_heads, 1, head_dim)
        # One axis, so that weight decay skips them as those of other normalizations.
        self.weight = nn.Parameter(torch.ones(num_heads * head_dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_heads * head_dim, device=device, dtype=dtype))

    def forward(self, t: Tensor) -> Tensor:
        """Normalize (B, H, N, D); statistics in float32, or float64 if ``t`` has it."""
        (wide, weight, bias), exact = widen(t, self.weight, self.bias)
        with exact:
            if torch.compiler.is_compiling():  # torch 2.15 assumes wrong strides of its own norm's gradient
                centered = wide - wide.mean(-1, keepdim=True)
                normal = centered * (centered.square().mean(-1, keepdim=True) + self.eps).rsqrt()
            else:
                normal = F.layer_norm(wide, wide.shape[-1:], eps=self.eps)
            return torch.addcmul(bias.view(self.per_head), normal, weight.view(self.per_head)).to(t.dtype)
