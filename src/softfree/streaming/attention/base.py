"""What every streaming form has: the sums, what they turn into, and what is then done to each token, both ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from softfree.attention.base import Attention, narrow_as_autocast, wide_type
from softfree.attention.seqnorm.moments import affine

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
    """What the attention does to each token, ``(h - center) matrix + constant``, in float32 or better.

    Attributes:
        matrix: A (B, C, C).
        constant: c (B, C).
        center: (B, C).
    """

    matrix: Tensor
    constant: Tensor
    center: Tensor

    @classmethod
    def without_center(cls, matrix: Tensor, constant: Tensor) -> Mixing:
        """Make one whose center is 0, with c (B, C) or (1, C)."""
        return cls(matrix, constant.expand(len(matrix), -1), matrix.new_zeros(matrix.shape[:2]))

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
            matrix, constant, center = mixing
            if h.dtype != torch.float16:
                return affine(h, center, matrix, constant, mask)
            # A may be of size 1 / N, which float16 cannot hold.
            size = matrix.detach().abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
            y = affine(h, center, matrix / size, torch.zeros_like(constant), mask)
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


def numbers(h: Tensor, mask: Tensor | None) -> Tensor:
    """Count the real tokens of h (B, n, C), (B, 1) in float32 or better."""
    if mask is None:
        return torch.full((len(h), 1), h.shape[1], dtype=wide_type(h), device=h.device)
    return mask.sum(1, keepdim=True).to(wide_type(h))
