"""Attentions on trial: do they carry the evidence of few of many tokens sooner than plain SeqNorm?

They run in the studies of softfree-lab as plugins, in the literal order only:

    PYTHONPATH=benchmarks/trials SOFTFREE_PLUGINS=rare_evidence softfree-lab study ablation \
        benchmarks/recipes/phantoms_4096.yaml --variants '[benchmarks/variants/rare_evidence.yaml]' ...
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention import Attention, register_attention
from softfree.attention.seqnorm import SeqNormAttention


@register_attention("weightedseqnorm")
class WeightedSeqNorm(SeqNormAttention):
    """SeqNorm whose sums over the tokens are weighted by an importance that each token is given by its features.

    w_n = softplus(gain (u . x_n + b)) and alpha_n = N w_n / sum w; mean, variance and K'^T V' are means over the tokens
    with the weights alpha. It starts as plain SeqNorm, with u = 0. (RALA, Fan et al. 2025, weights the keys of linear
    attention in a similar way.) With few steps, a gain above 1 lets the weights become more unequal.
    """

    def __init__(self, dim: int, num_heads: int = 8, *, gain: float = 1.0, **options: Any) -> None:
        super().__init__(dim, num_heads, **options | {"order": "literal"})
        self.gain = gain
        self.importance = nn.Linear(dim, 1)
        self.init_projections()

    def init_projections(self) -> None:
        """Start with the same weight for all tokens."""
        nn.init.zeros_(self.importance.weight)
        nn.init.constant_(self.importance.bias, math.log(math.e - 1) / self.gain)  # a weight of 1

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, grid: tuple[int, ...] | None = None
    ) -> Tensor:
        """Apply the attention to tokens (B, N, C), without a mask."""
        if attn_mask is not None or is_causal:
            raise NotImplementedError("a trial for samples of equal size")
        w = F.softplus(self.gain * self.importance(x).float())  # (B, N, 1)
        alpha = (w / w.mean(dim=1, keepdim=True)).unsqueeze(1)  # (B, 1, N, 1)
        q, k, v = (
            _normalized(self.split_heads(t).float(), alpha, norm.weight, norm.bias, self.eps)
            for t, norm in zip(self.qkv(x).chunk(3, dim=-1), (self.q_norm, self.k_norm, self.v_norm), strict=True)
        )
        mixing = (alpha * k).mT @ v / x.shape[1]
        return self.proj_drop(self.proj((q @ mixing).transpose(1, 2).flatten(2).to(x.dtype)))


@register_attention("spikyseqnorm")
class SpikySeqNorm(SeqNormAttention):
    """SeqNorm of sign(t) |t|^p of the normalized K and V, with p = 2 at first and learned for each head.

    Few large features then outweigh many small ones (the focused function of FLatten, Han et al. 2023).
    """

    def __init__(self, dim: int, num_heads: int = 8, *, power: float = 2.0, **options: Any) -> None:
        super().__init__(dim, num_heads, **options | {"order": "literal"})
        self.power = nn.Parameter(torch.full((num_heads, 1, 1), power))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: tuple[int, ...] | None = None) -> Tensor:
        """Mix the tokens of each head, (B, H, N, D), in float32: the powers overflow halves."""
        k, v = (_spiky(t.float(), self.power.float(), self.eps) for t in (k, v))
        return super().mix(q.float(), k, v, mask, grid).to(q.dtype)


@register_attention("ssmax")
class ScalableSoftmax(Attention):
    """Softmax of scores times s log N with a learned s for each head (SSMax, Nakanishi 2025, arXiv:2501.19399)."""

    linear_in_values = True

    def __init__(self, dim: int, num_heads: int = 8, *, start: float = 0.168, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.sharpness = nn.Parameter(torch.full((num_heads, 1, 1), start))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: tuple[int, ...] | None = None) -> Tensor:
        """Mix the tokens of each head, (B, H, N, D)."""
        tokens: Any = q.shape[2] if mask is None else mask.sum(dim=2, keepdim=True).clamp(min=1)
        log = math.log(tokens) if isinstance(tokens, int) else tokens.log()
        sharpened = q * (self.sharpness * log).to(q.dtype)
        return F.scaled_dot_product_attention(sharpened, k, v, attn_mask=None if mask is None else mask.mT)


def _normalized(t: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Normalize (B, H, N, D) by weighted statistics over the tokens, scale and shift."""
    mean = (alpha * t).mean(dim=2, keepdim=True)
    centered = t - mean
    variance = (alpha * centered.square()).mean(dim=2, keepdim=True)
    per_head = (t.shape[1], 1, t.shape[3])
    return centered * (variance + eps).rsqrt() * gamma.view(per_head) + beta.view(per_head)


def _spiky(t: Tensor, power: Tensor, eps: float) -> Tensor:
    centered = t - t.mean(dim=2, keepdim=True)
    unit = centered * (centered.square().mean(dim=2, keepdim=True) + eps).rsqrt()
    return unit.sign() * unit.abs().clamp(min=1e-6) ** power
