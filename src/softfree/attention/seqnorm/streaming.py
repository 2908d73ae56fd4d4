"""SeqNorm over chunks: mean and covariance of the tokens (Gram order, attention/seqnorm/orders.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softfree.attention.base import narrow_as_autocast
from softfree.attention.moments import affine, divisor, moments
from softfree.attention.seqnorm.orders import mix_moments
from softfree.attention.streaming import AffineMap, StreamingAttention, TokenStats, real_counts

if TYPE_CHECKING:
    from softfree.attention.seqnorm.module import SeqNormAttention


class StreamingSeqNorm(StreamingAttention):
    """Values: mean (B, C) and biased covariance (B, C, C). Raw: N, sum of h, half of the symmetric sum of h h^T.

    With an importance of the tokens, sums are weighted by it, and N is the sum of the weights.
    """

    attention: SeqNormAttention

    @property
    def raw_size(self) -> int:
        """1 + C + C (C + 1) / 2."""
        return 1 + self.width + self.width * (self.width + 1) // 2

    def gather(self, h: Tensor, mask: Tensor | None = None) -> TokenStats:
        """Compute the moments of the tokens."""
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            h, weights = self.attention.weigh(h, mask)
            _, mean, covariance = moments(h, mask, weights)
        number = real_counts(h, mask) if weights is None else weights.sum(1, keepdim=True)
        return TokenStats(number, (mean, covariance))

    def raw(self, stats: TokenStats) -> Tensor:
        """See the class."""
        number = stats.number.double()
        mean, covariance = (value.double() for value in stats.values)
        second = torch.baddbmm(covariance, mean.unsqueeze(2), mean.unsqueeze(1))
        return torch.cat([number, number * mean, number * second[:, *self._half(mean.device)]], dim=1)

    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> TokenStats:
        """See the class."""
        number, first, half = raw.split([1, self.width, self.raw_size - 1 - self.width], dim=1)
        count = divisor(number)
        mean = first / count
        rows, columns = self._half(raw.device)
        samples = torch.arange(len(raw), device=raw.device).unsqueeze(1)
        second = half.new_zeros(len(raw), self.width, self.width)
        second = second.index_put((samples, rows, columns), half / count)
        second = second + second.tril(-1).mT
        covariance = torch.baddbmm(second, mean.unsqueeze(2), mean.unsqueeze(1), alpha=-1)
        # Rounding must not make a variance negative.
        covariance = covariance + torch.diag_embed(covariance.detach().diagonal(dim1=1, dim2=2).clamp(max=0).neg())
        return TokenStats(number.to(dtype), (mean.to(dtype), covariance.to(dtype)))

    def _half(self, device: torch.device) -> tuple[Tensor, Tensor]:
        rows, columns = torch.tril_indices(self.width, self.width, device=device)
        return rows, columns

    def _affine_map(self, values: tuple[Tensor, ...]) -> AffineMap:
        mean, covariance = values
        return AffineMap(*mix_moments(mean, covariance, self.attention.parameters_for_orders()), mean)

    def vjp(
        self, h: Tensor, stats: TokenStats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return ``dh = (1 dmu^T + (h - mu) (dS + dS^T)) / N`` for the tokens themselves.

        With an importance w, dh is weighted by it, and dw as in :mod:`softfree.attention.moments` is returned, too.
        """
        tokens, weights = self.attention.weigh(h, mask)
        with torch.no_grad():
            number = divisor(stats.number)
            (mean, covariance), (dmean, dcovariance) = stats.values, grads
            matrix, slope = (dcovariance + dcovariance.mT) / number.unsqueeze(-1), dmean / number
            narrow, full_precision = narrow_as_autocast(tokens)
            with full_precision:
                pull = affine(narrow, mean, matrix, slope)
            dh = pull.to(h.dtype) if weights is None else (pull * weights.unsqueeze(-1)).to(h.dtype)
            if mask is not None:
                dh.masked_fill_(~mask.unsqueeze(-1), 0)
            if weights is None:
                return [h], [dh]
            deviation = tokens.to(mean.dtype) - mean.unsqueeze(1)
            dw = 0.5 * torch.linalg.vecdot(deviation, pull.to(mean.dtype) + slope.unsqueeze(1))
            dw -= (dcovariance * covariance).sum((1, 2)).unsqueeze(1) / number
        return [h, weights], [dh, dw]

    def queries(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Return Q'."""
        return self.attention.split_heads(self._normalized(h, stats, 0))

    def keys(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Return K' / N, or with an importance w its rows times w / sum(w)."""
        keys = self.attention.split_heads(self._normalized(h, stats, 1)) / divisor(stats.number)[:, :, None, None]
        weights = self.attention.token_weights(h, None)
        return keys if weights is None else keys * weights[:, None, :, None]

    def _normalized(self, h: Tensor, stats: TokenStats, part: int) -> Tensor:
        p = self.attention.parameters_for_orders()
        rows = slice(part * self.width, (part + 1) * self.width)
        weight, gamma, beta = p.qkv[rows], p.gamma[rows], p.beta[rows]
        if not p.normalized[part]:
            return gamma * self.project(h, part) + beta
        mean, covariance = stats.values
        wide = weight.to(covariance.dtype)
        variance = ((wide @ covariance) * wide).sum(2).clamp(min=0)  # (1, C)
        projected = self.project(h - mean.unsqueeze(1), part)
        return gamma * projected * (variance + p.eps).rsqrt().unsqueeze(1) + beta
