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


def _spiky(t: Tensor, power: Tensor, eps: float) -> Tensor:
    centered = t - t.mean(dim=2, keepdim=True)
    unit = centered * (centered.square().mean(dim=2, keepdim=True) + eps).rsqrt()
    return unit.sign() * unit.abs().clamp(min=1e-6) ** power
