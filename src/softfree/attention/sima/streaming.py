"""SimA over chunks: the L1 norms of Q and K, and K^T V."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import narrow_as_autocast
from softfree.attention.streaming import AffineMap, StreamingAttention, TokenStats, real_counts

if TYPE_CHECKING:
    from softfree.attention.sima.module import SimaAttention


class StreamingSima(StreamingAttention):
    """Values: L1 norms of Q and K (B, 1, 2C) and K^T V (B, H, D, D). Raw: the number and both; all are sums."""

    attention: SimaAttention

    @property
    def raw_size(self) -> int:
        """1 + 2C + C D."""
        return 1 + 2 * self.width + self.width * self.attention.head_dim

    def gather(self, h: Tensor, mask: Tensor | None = None) -> TokenStats:
        """Project the tokens and sum."""
        number = real_counts(h, mask)
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            if mask is not None:
                h = h.masked_fill(~mask.unsqueeze(-1), 0)
            tokens = max(1, h.shape[1])
            _, norms, cross = self.attention._sums(h, mask, tokens)
            return TokenStats(number, (norms, cross * tokens))

    def raw(self, stats: TokenStats) -> Tensor:
        """See the class."""
        return torch.cat([value.double().flatten(1) for value in (stats.number, *stats.values)], dim=1)

    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> TokenStats:
        """See the class."""
        heads, depth = self.attention.num_heads, self.attention.head_dim
        number, norms, cross = raw.to(dtype).split([1, 2 * self.width, self.width * depth], dim=1)
        return TokenStats(number, (norms.unsqueeze(1), cross.unflatten(1, (heads, depth, depth))))

    def _affine_map(self, values: tuple[Tensor, ...]) -> AffineMap:
        norms, cross = values
        matrix, constant = self.attention.on_input(*self.attention.mixing(norms, cross, 1))
        return AffineMap.without_center(matrix, constant)

    def vjp(
        self, h: Tensor, stats: TokenStats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Project the tokens again, with a graph; both values are sums, so that each chunk gets all of ``grads``."""
        return list(self.gather(h, mask).values), list(grads)

    def queries(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Return Q^."""
        return self._normalized(h, stats, 0)

    def keys(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Return K^."""
        return self._normalized(h, stats, 1)

    def _normalized(self, h: Tensor, stats: TokenStats, part: int) -> Tensor:
        norm = stats.values[0][..., part * self.width : (part + 1) * self.width]
        return self.attention.split_heads(self.project(h, part) / norm.clamp(min=self.attention.eps))
