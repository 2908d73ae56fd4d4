"""Galerkin attention over chunks: K~^T V~, with K~ and V~ normalized token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import mean_product, narrow_as_autocast
from softfree.attention.streaming import AffineMap, StreamingAttention, TokenStats, real_counts

if TYPE_CHECKING:
    from softfree.attention.galerkin.module import GalerkinAttention


class StreamingGalerkin(StreamingAttention):
    """Value: K~^T V~ / N (B, H, D, D). Raw: N and the sum K~^T V~."""

    attention: GalerkinAttention

    @property
    def raw_size(self) -> int:
        """1 + C D."""
        return 1 + self.width * self.attention.head_dim

    def gather(self, h: Tensor, mask: Tensor | None = None) -> TokenStats:
        """Project the tokens to keys and values, normalize them, and sum."""
        number, attention = real_counts(h, mask), self.attention
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            if mask is not None:
                h = h.masked_fill(~mask.unsqueeze(-1), 0)  # not even a NaN may reach the sums
            bias = None if attention.qkv.bias is None else attention.qkv.bias[self.width :].to(h.dtype)
            k, v = F.linear(h, attention.qkv.weight[self.width :].to(h.dtype), bias).chunk(2, dim=-1)
            k = attention.k_norm(attention.split_heads(k))
            v = attention.v_norm(attention.split_heads(v))
            if mask is not None:
                k = k.masked_fill(~mask[:, None, :, None], 0)
            return TokenStats(number, (mean_product(k, v, number.clamp(min=1)[:, :, None, None]),))

    def raw(self, stats: TokenStats) -> Tensor:
        """See the class."""
        number = stats.number.double()
        return torch.cat([number, number * stats.values[0].double().flatten(1)], dim=1)

    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> TokenStats:
        """See the class."""
        heads, depth = self.attention.num_heads, self.attention.head_dim
        number, total = raw[:, :1], raw[:, 1:]
        cross = (total / number.clamp(min=1)).unflatten(1, (heads, depth, depth))
        return TokenStats(number.to(dtype), (cross.to(dtype),))

    def _affine_map(self, values: tuple[Tensor, ...]) -> AffineMap:
        (cross,), attention = values, self.attention
        inner = (cross @ attention.split_heads(attention.proj.weight.to(cross.dtype)).mT).flatten(1, 2)  # (B, C, C)
        constant = cross.new_zeros(len(cross), self.width)
        if attention.proj.bias is not None:
            constant = constant + attention.proj.bias
        if attention.qkv.bias is not None:
            constant = constant + attention.qkv.bias[: self.width].to(cross.dtype) @ inner
        return AffineMap.without_center(attention.qkv.weight[: self.width].to(cross.dtype).mT @ inner, constant)

    def vjp(
        self, h: Tensor, stats: TokenStats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Project the tokens again, with a graph; the chunk's mean counts as its share of all tokens."""
        chunk_stats = self.gather(h, mask)
        share = (chunk_stats.number / stats.number.clamp(min=1))[:, :, None, None]
        return list(chunk_stats.values), [grad * share for grad in grads]

    def queries(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Return Q, which is not normalized."""
        return self.attention.split_heads(self.project(h, 0))

    def keys(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Return K~ / N."""
        keys = self.attention.k_norm(self.attention.split_heads(self.project(h, 1)))
        return keys / stats.number.clamp(min=1)[:, :, None, None]
