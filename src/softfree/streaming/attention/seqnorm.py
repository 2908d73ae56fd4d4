"""SeqNorm over chunks: mean and covariance of the tokens (Gram order, attention/seqnorm/orders.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softfree.attention import SeqNormAttention
from softfree.attention.base import narrow_as_autocast
from softfree.attention.seqnorm.moments import affine, moments
from softfree.attention.seqnorm.orders import mix_moments
from softfree.streaming.attention.base import Form, Mixing, Stats, numbers


class SeqNormForm(Form[SeqNormAttention]):
    """Values: mean (B, C) and biased covariance (B, C, C). Raw: N, sum of h, half of the symmetric sum of h h^T."""

    @property
    def raw_size(self) -> int:
        """1 + C + C (C + 1) / 2."""
        return 1 + self.width + self.width * (self.width + 1) // 2

    def gather(self, h: Tensor, mask: Tensor | None = None) -> Stats:
        """Compute the moments of the tokens."""
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            _, mean, covariance = moments(h, mask)
        return Stats(numbers(h, mask), (mean, covariance))

    def raw(self, stats: Stats) -> Tensor:
        """See the class."""
        number = stats.number.double()
        mean, covariance = (value.double() for value in stats.values)
        second = torch.baddbmm(covariance, mean.unsqueeze(2), mean.unsqueeze(1))
        return torch.cat([number, number * mean, number * second[:, *self._half(mean.device)]], dim=1)

    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> Stats:
        """See the class."""
        number, first, half = raw.split([1, self.width, self.raw_size - 1 - self.width], dim=1)
        at_least = number.clamp(min=1)
        mean = first / at_least
        rows, columns = self._half(raw.device)
        samples = torch.arange(len(raw), device=raw.device).unsqueeze(1)
        second = half.new_zeros(len(raw), self.width, self.width)
        second = second.index_put((samples, rows, columns), half / at_least)
        second = second + second.tril(-1).mT
        covariance = torch.baddbmm(second, mean.unsqueeze(2), mean.unsqueeze(1), alpha=-1)
        # Rounding must not make a variance negative.
        covariance = covariance + torch.diag_embed(covariance.detach().diagonal(dim1=1, dim2=2).clamp(max=0).neg())
        return Stats(number.to(dtype), (mean.to(dtype), covariance.to(dtype)))

    def _half(self, device: torch.device) -> tuple[Tensor, Tensor]:
        rows, columns = torch.tril_indices(self.width, self.width, device=device)
        return rows, columns

    def _mixing(self, values: tuple[Tensor, ...]) -> Mixing:
        mean, covariance = values
        return Mixing(*mix_moments(mean, covariance, self.attention.parameters_for_orders()), mean)

    def pull(
        self, h: Tensor, stats: Stats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give ``dh = (1 dmu^T + (h - mu) (dS + dS^T)) / N`` of the tokens themselves."""
        with torch.no_grad():
            number = stats.number.clamp(min=1)
            mean, slope, shift = stats.values[0], grads[1] + grads[1].mT, grads[0] / number
            narrow, full_precision = narrow_as_autocast(h)
            with full_precision:
                dh = affine(narrow, mean, slope / number.unsqueeze(-1), shift).to(h.dtype)
            if mask is not None:
                dh.masked_fill_(~mask.unsqueeze(-1), 0)
        return [h], [dh]
