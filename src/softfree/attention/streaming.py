"""Streaming attention: sums over chunks of tokens, and the resulting affine map of each token.

With h (n, C) the input of the attention, the sublayer of every method that can stream is

    y = (h - center) A + 1 c^T,        A (C, C), c (C) and center (C) functions of a few sums over all tokens:

- SeqNorm: the number of tokens, their mean and covariance; center = mean.
- SimA: the L1 norms of Q and K, and K^T V; center = 0.
- Galerkin: the number of tokens and K~^T V~ with K~ and V~ normalized token by token; center = 0.

Tokens may therefore come in chunks or be spread over several machines: the sums are added up, and a chunk needs nothing
else from the others. The same holds backward: dA, dc and dcenter are sums over tokens, a graph of C x C tensors turns
them into the gradients of the sums, and from those each chunk computes its own gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Attention, narrow_as_autocast, wide_type
from softfree.attention.moments import affine
from softfree.attention.registry import ATTENTIONS
from softfree_runtime.core.errors import UserError


class TokenStats(NamedTuple):
    """Statistics of some tokens, in float32 or better.

    Attributes:
        number: Number of real tokens, (B, 1); no gradient flows into it.
        values: The one or two tensors that gradients flow into; each method documents its own.
    """

    number: Tensor
    values: tuple[Tensor, ...]

    def leaf(self) -> TokenStats:
        """Detach from the graph and require gradients."""
        return TokenStats(self.number, tuple(value.detach().requires_grad_() for value in self.values))


class AffineMap(NamedTuple):
    """The map that the attention applies to each token, ``(h - center) matrix + constant``, in float32 or better.

    Attributes:
        matrix: A (B, C, C).
        constant: c (B, C).
        center: (B, C).
    """

    matrix: Tensor
    constant: Tensor
    center: Tensor

    @classmethod
    def without_center(cls, matrix: Tensor, constant: Tensor) -> AffineMap:
        """Create a map whose center is 0, with c (B, C) or (1, C)."""
        return cls(matrix, constant.expand(len(matrix), -1), matrix.new_zeros(matrix.shape[:2]))

    def leaf(self) -> AffineMap:
        """Detach from the graph and require gradients."""
        return AffineMap(*(tensor.detach().requires_grad_() for tensor in self))


class StreamingAttention(ABC):
    """The streaming form of an attention module, whose parameters are read at each call."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.width = attention.num_heads * attention.head_dim

    @property
    @abstractmethod
    def raw_size(self) -> int:
        """Length of :meth:`raw` for one sample."""

    @abstractmethod
    def gather(self, h: Tensor, mask: Tensor | None = None) -> TokenStats:
        """Compute the statistics of tokens h (B, n, C), with a mask (B, n), True for real tokens; differentiable."""

    @abstractmethod
    def raw(self, stats: TokenStats) -> Tensor:
        """Convert to sums over tokens, (B, raw_size) in float64; those of disjoint sets of tokens add up.

        Differences of large sums lose about half the digits if a mean is large compared with the standard deviation.
        float64 has enough of them: the statistics are exact to float32 up to a ratio of 10,000.
        """

    @abstractmethod
    def from_raw(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> TokenStats:
        """Invert :meth:`raw`, into ``dtype``; differentiable."""

    def affine_map(self, stats: TokenStats) -> AffineMap:
        """Compute the map of each token; differentiable in the statistics and the attention's parameters.

        As in memory, autocast does not narrow it.
        """
        with torch.autocast(stats.number.device.type, enabled=False):
            return self._affine_map(stats.values)

    @abstractmethod
    def _affine_map(self, values: tuple[Tensor, ...]) -> AffineMap: ...

    @abstractmethod
    def vjp(
        self, h: Tensor, stats: TokenStats, grads: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Compute a chunk's share of the gradient of the statistics of all tokens.

        Args:
            h: The chunk's tokens (B, n, C), with their graph.
            stats: Statistics of all tokens.
            grads: dL/dvalue for each of ``stats.values``.
            mask: True for real tokens (B, n), or None.

        Returns:
            Tensors and their gradients, for ``torch.autograd.backward`` or ``torch.autograd.grad``; a covariance,
            whose gradient has a closed form, need not be recomputed.
        """

    def queries(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Compute q' of the attention weights ``w_ij = q'_i . k'_j``.

        Args:
            h: Some tokens that enter the attention, (1, n, C).
            stats: Statistics of all tokens.

        Returns:
            (1, H, n, D), float32 or better.

        Raises:
            UserError: The method has no such weights.
        """
        raise self._no_weights()

    def keys(self, h: Tensor, stats: TokenStats) -> Tensor:
        """Compute k', with everything that is divided by the number of tokens; see :meth:`queries`."""
        raise self._no_weights()

    def project(self, h: Tensor, part: int) -> Tensor:
        """Project tokens (1, n, C) to Q (0) or K (1), (1, n, C) in float32 or better."""
        rows = slice(part * self.width, (part + 1) * self.width)
        bias, wide = self.attention.qkv.bias, wide_type(h)
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            weight = self.attention.qkv.weight[rows].to(h.dtype)
            projected = F.linear(h, weight, None if bias is None else bias[rows].to(h.dtype))
        return projected.to(wide)

    def _no_weights(self) -> UserError:
        return UserError(
            f"{type(self.attention).__name__} has no attention weights of streamed tokens: "
            f"{type(self).__name__} would need queries and keys"
        )

    def apply(self, h: Tensor, affine_map: AffineMap, mask: Tensor | None = None) -> Tensor:
        """Apply the map to tokens h (B, n, C), (B, n, C) in the type that autocast would give; differentiable."""
        h, full_precision = narrow_as_autocast(h)
        with full_precision:
            matrix, constant, center = affine_map
            if h.dtype != torch.float16:
                return affine(h, center, matrix, constant, mask)
            # A may be of order 1 / N, which float16 cannot represent.
            scale = matrix.detach().abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
            y = affine(h, center, matrix / scale, torch.zeros_like(constant), mask)
            return torch.addcmul(constant.unsqueeze(1), y.to(scale.dtype), scale).to(h.dtype)

    def backward(
        self, stats: TokenStats, grads: AffineMap, parameters: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Turn gradients of :meth:`affine_map` into those of the statistics and of the attention's parameters.

        Args:
            stats: Statistics of all tokens.
            grads: Gradient of each field of the map, summed over all tokens.
            parameters: Parameters to differentiate with respect to.

        Returns:
            dL/dvalue for each value, and the gradient of each parameter, None if the map does not depend on it.
        """
        with torch.enable_grad():
            stats = stats.leaf()
            pairs = [(out, grad) for out, grad in zip(self.affine_map(stats), grads, strict=True) if out.requires_grad]
            outputs, output_grads = zip(*pairs, strict=True)
            inputs = [*stats.values, *parameters]
            gradients = torch.autograd.grad(outputs, inputs, output_grads, allow_unused=True)
        stat_grads = [
            torch.zeros_like(value) if grad is None else grad
            for value, grad in zip(stats.values, gradients, strict=False)
        ]
        return stat_grads, list(gradients[len(stat_grads) :])


def real_counts(h: Tensor, mask: Tensor | None) -> Tensor:
    """Count the real tokens of h (B, n, C), (B, 1) in float32 or better."""
    if mask is None:
        return torch.full((len(h), 1), h.shape[1], dtype=wide_type(h), device=h.device)
    return mask.sum(1, keepdim=True).to(wide_type(h))


def streaming_form(attention: nn.Module) -> StreamingAttention:
    """Create the streaming form of an attention module.

    Raises:
        UserError: It has none; the message says why, and which methods have one.
    """
    reason = why_not_streaming(attention)
    if reason:
        raise UserError(reason)
    assert isinstance(attention, Attention)
    assert attention.streaming is not None
    return attention.streaming(attention)


def why_not_streaming(attention: nn.Module) -> str:
    """Explain why an attention module cannot stream, and which methods can; empty if it can."""
    reason = attention.why_not_streaming() if isinstance(attention, Attention) else "has no streaming form"
    if not reason:
        return ""
    *names, last = (name for name, method in ATTENTIONS.items() if method.streaming is not None)
    return (
        f"{type(attention).__name__} {reason}, so that its tokens cannot stream: expected {', '.join(names)} or {last} "
        "with plain projections and default normalization, or an input that fits in memory."
    )
