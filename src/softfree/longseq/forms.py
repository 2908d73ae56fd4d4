"""What an attention needs of all tokens, as sums over chunks of them, and what it then does to each token.

With h (n, C) the input of the attention, the sublayer of every method here is

    y = (h - centre) A + 1 c^T,        A (C, C), c (C) and centre (C) functions of a few sums over all tokens:

- SeqNorm: the number of tokens, their mean and covariance ("Gram order", attention/seqnorm/orders.py); centre = mean.
- SimA: the L1 norms of Q and K, and K^T V; centre = 0.
- Galerkin: the number of tokens and K~^T V~ with K~ and V~ normalised token by token; centre = 0.

So tokens may come in chunks, or lie on several machines: sums are added up, and nothing else of one chunk is needed by
another. The same holds backwards: dA, dc and dcentre are sums over tokens, a graph of C x C tensors turns them into the
gradients of the sums, and those give each chunk its part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention import GalerkinAttention, SeqNormAttention, SimaAttention
from softfree.attention.base import Attention, mean_product, narrow_as_autocast, wide_type
from softfree.attention.seqnorm.moments import affine, moments
from softfree.attention.seqnorm.orders import mix_moments
from softfree.errors import UserError

A = TypeVar("A", bound=Attention)


class Stats(NamedTuple):
    """What a form knows of some tokens, in float32 or better.

    Attributes:
        number: Of real tokens, (B, 1); no gradient flows into it.
        values: What gradients flow into, one or two tensors; each form says which.
    """

    number: Tensor
    values: tuple[Tensor, ...]

    def leaf(self) -> Stats:
        """Cut the graph here: the same numbers, their gradients wanted."""
        return Stats(self.number, tuple(value.detach().requires_grad_() for value in self.values))


class Mixing(NamedTuple):
    """What the attention does to each token, ``(h - centre) matrix + constant``, in float32 or better.

    Attributes:
        matrix: A (B, C, C).
        constant: c (B, C).
        centre: (B, C).
    """

    matrix: Tensor
    constant: Tensor
    centre: Tensor

    def leaf(self) -> Mixing:
        """Cut the graph here: the same numbers, their gradients wanted."""
        return Mixing(*(tensor.detach().requires_grad_() for tensor in self))


class Form(ABC, Generic[A]):
    """The streaming form of one attention module; parameters are read from it at each call."""

    def __init__(self, attention: A) -> None:
        self.attention = attention
        self.width = attention.num_heads * attention.head_dim

    @property
    @abstractmethod
    def raw_size(self) -> int:
        """How many numbers :meth:`raw` gives for a sample."""

    @abstractmethod
    def gather(self, h: Tensor, mask: Tensor | None = None) -> Stats:
        """Look at tokens h (B, n, C), mask (B, n) True for real ones; differentiable."""

    @abstractmethod
    def raw(self, stats: Stats) -> Tensor:
        """Write as sums over tokens, (B, raw_size) in float64: those of disjoint sets of tokens add up.

        Differences of large sums lose about half the digits where a mean is large against its spread, and float64 has
        them to spare: what comes back is exact to float32 up to a mean of 10,000 times the spread.
        """

    @abstractmethod
    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> Stats:
        """Undo :meth:`raw`, into ``dtype``; differentiable."""

    def mixing(self, stats: Stats) -> Mixing:
        """Find what the attention does to each token; differentiable in the stats and the attention's parameters.

        Autocast does not narrow it, as it does not in memory.
        """
        with torch.autocast(stats.number.device.type, enabled=False):
            return self._mixing(stats.values)

    @abstractmethod
    def _mixing(self, values: tuple[Tensor, ...]) -> Mixing: ...

    @abstractmethod
    def pull(
        self, h: Tensor, stats: Stats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give a chunk its part of the gradient that reached the stats of all tokens.

        Args:
            h: The chunk's tokens (B, n, C), with a graph behind them.
            stats: Of all tokens.
            grads: dL/dvalue for each of ``stats.values``.
            mask: True for real tokens (B, n), or None.

        Returns:
            Tensors and their gradients, for ``torch.autograd.backward`` or ``torch.autograd.grad``: so that the
            covariance, whose gradient is known in closed form, need not be computed again as a scalar would ask.
        """

    def apply(self, h: Tensor, mixing: Mixing, mask: Tensor | None = None) -> Tensor:
        """Attend: tokens h (B, n, C) to (B, n, C), in the type that autocast would give; differentiable."""
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            matrix, constant, centre = mixing
            if h.dtype != torch.float16:
                return affine(h, centre, matrix, constant, mask)
            # A may be of size 1 / N, which float16 cannot hold.
            size = matrix.detach().abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
            y = affine(h, centre, matrix / size, torch.zeros_like(constant), mask)
            return torch.addcmul(constant.unsqueeze(1), y.to(size.dtype), size).to(h.dtype)

    def backward(
        self, stats: Stats, grads: Mixing, parameters: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Turn the gradients of :meth:`mixing` into those of the stats' values and of the attention's parameters.

        Args:
            stats: Of all tokens.
            grads: dL/d of each field of the mixing, summed over all tokens.
            parameters: Those whose gradients are wanted.

        Returns:
            dL/dvalue for each value, and for each parameter its gradient, or None if it has no part in the mixing.
        """
        with torch.enable_grad():
            stats = stats.leaf()
            made = [(out, grad) for out, grad in zip(self.mixing(stats), grads, strict=True) if out.requires_grad]
            outputs, slopes = zip(*made, strict=True)
            found = torch.autograd.grad(outputs, [*stats.values, *parameters], slopes, allow_unused=True)
        of_stats = [
            torch.zeros_like(value) if grad is None else grad for value, grad in zip(stats.values, found, strict=False)
        ]
        return of_stats, list(found[len(of_stats) :])


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


class SimaForm(Form[SimaAttention]):
    """Values: L1 norms of Q and K (B, 1, 2C) and K^T V (B, H, D, D). Raw: the number and both; all are sums."""

    @property
    def raw_size(self) -> int:
        """1 + 2C + C D."""
        return 1 + 2 * self.width + self.width * self.attention.head_dim

    def gather(self, h: Tensor, mask: Tensor | None = None) -> Stats:
        """Project the tokens and sum."""
        number = numbers(h, mask)
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            if mask is not None:
                h = h.masked_fill(~mask.unsqueeze(-1), 0)
            tokens = max(1, h.shape[1])
            _, norms, cross = self.attention._sums(h, mask, tokens)
            return Stats(number, (norms, cross * tokens))

    def raw(self, stats: Stats) -> Tensor:
        """See the class."""
        return torch.cat([value.double().flatten(1) for value in (stats.number, *stats.values)], dim=1)

    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> Stats:
        """See the class."""
        heads, depth = self.attention.num_heads, self.attention.head_dim
        number, norms, cross = raw.to(dtype).split([1, 2 * self.width, self.width * depth], dim=1)
        return Stats(number, (norms.unsqueeze(1), cross.unflatten(1, (heads, depth, depth))))

    def _mixing(self, values: tuple[Tensor, ...]) -> Mixing:
        norms, cross = values
        matrix, constant = self.attention.on_input(*self.attention.mixing(norms, cross, 1))
        return _without_centre(matrix, constant)

    def pull(
        self, h: Tensor, stats: Stats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Project the tokens again, with a graph; both values are sums, so that each chunk gets all of ``grads``."""
        return list(self.gather(h, mask).values), list(grads)


class GalerkinForm(Form[GalerkinAttention]):
    """Value: K~^T V~ / N (B, H, D, D). Raw: N and the sum K~^T V~."""

    @property
    def raw_size(self) -> int:
        """1 + C D."""
        return 1 + self.width * self.attention.head_dim

    def gather(self, h: Tensor, mask: Tensor | None = None) -> Stats:
        """Project the tokens to keys and values, normalise them, and sum."""
        number, attention = numbers(h, mask), self.attention
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
            return Stats(number, (mean_product(k, v, number.clamp(min=1)[:, :, None, None]),))

    def raw(self, stats: Stats) -> Tensor:
        """See the class."""
        number = stats.number.double()
        return torch.cat([number, number * stats.values[0].double().flatten(1)], dim=1)

    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> Stats:
        """See the class."""
        heads, depth = self.attention.num_heads, self.attention.head_dim
        number, total = raw[:, :1], raw[:, 1:]
        cross = (total / number.clamp(min=1)).unflatten(1, (heads, depth, depth))
        return Stats(number.to(dtype), (cross.to(dtype),))

    def _mixing(self, values: tuple[Tensor, ...]) -> Mixing:
        (cross,), attention = values, self.attention
        inner = (cross @ attention.split_heads(attention.proj.weight.to(cross.dtype)).mT).flatten(1, 2)  # (B, C, C)
        constant = cross.new_zeros(len(cross), self.width)
        if attention.proj.bias is not None:
            constant = constant + attention.proj.bias
        if attention.qkv.bias is not None:
            constant = constant + attention.qkv.bias[: self.width].to(cross.dtype) @ inner
        return _without_centre(attention.qkv.weight[: self.width].to(cross.dtype).mT @ inner, constant)

    def pull(
        self, h: Tensor, stats: Stats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Project the tokens again, with a graph; the chunk's mean counts as its share of all tokens."""
        own = self.gather(h, mask)
        share = (own.number / stats.number.clamp(min=1))[:, :, None, None]
        return list(own.values), [grad * share for grad in grads]


FORMS: dict[type[Attention], type[Form]] = {
    SeqNormAttention: SeqNormForm,
    SimaAttention: SimaForm,
    GalerkinAttention: GalerkinForm,
}


def form_of(attention: nn.Module) -> Form:
    """Find the streaming form of an attention module.

    Raises:
        UserError: it has none; the message says why, and which have one.
    """
    reason = refusal(attention)
    if reason:
        raise UserError(reason)
    return FORMS[type(attention)](attention)  # type: ignore[index]


def refusal(attention: nn.Module) -> str:
    """Say why an attention has no streaming form, and which have one; empty if it has."""
    reason = _hindrance(attention)
    return reason and (
        f"{type(attention).__name__} {reason}, so that its tokens cannot stream: expected seqnorm (normalised over the "
        "sequence), sima or galerkin with plain projections, or an input that fits in memory."
    )


def _hindrance(attention: nn.Module) -> str:
    if type(attention) not in FORMS:
        return "needs more of all tokens than a few sums"
    assert isinstance(attention, Attention)
    if isinstance(attention, SeqNormAttention) and attention.num_left_out:
        return "leaves the class token out of its statistics"
    if not isinstance(attention.norm, nn.Identity):
        return "normalises its result (scale_norm=True)"
    if isinstance(attention, SeqNormAttention) and not attention.expressible:
        return "does not normalise over the sequence"
    return "" if attention.projections_are_plain() else "has a projection that was replaced or has hooks"


def numbers(h: Tensor, mask: Tensor | None) -> Tensor:
    """Count the real tokens of h (B, n, C), (B, 1) in float32 or better."""
    if mask is None:
        return torch.full((len(h), 1), h.shape[1], dtype=wide_type(h), device=h.device)
    return mask.sum(1, keepdim=True).to(wide_type(h))


def _without_centre(matrix: Tensor, constant: Tensor) -> Mixing:
    constant = constant.expand(len(matrix), -1) if constant.ndim == 2 else constant
    return Mixing(matrix, constant, matrix.new_zeros(matrix.shape[:2]))
