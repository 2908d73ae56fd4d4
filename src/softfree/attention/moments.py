"""The two passes over the tokens of SeqNorm's Gram order, each keeping only the tokens for backward.

    mean, covariance = moments(x)              mu = X^T 1 / N,  S = (X - mu)^T (X - mu) / N
    y = affine(x, mean, A, c)                  Y = (X - mu) A + 1 c^T

With weights w of the tokens, mu = X^T w / sum(w) and S = (X - mu)^T diag(w) (X - mu) / sum(w): a mask has weights of 0
and 1. A further pass finds the mean first, since tokens with large weights may be far from the others.

Both visit the tokens in chunks that stay in the processor's cache: each chunk is centered into one small reused buffer,
so no second tensor of the size of X is ever written. Tokens are first centered by an estimate of the mean: S does not
depend on the shift, and a difference of two large sums never arises, even in half precision.

While a graph is compiled or exported, both are plain products instead, which the compiler fuses itself; the same holds
under torch.func, and for a backward pass that is itself differentiated or vectorized.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from softfree.attention.base import PART, plain_only, transformed, wide_type

# Number of tokens from which the mean is estimated.
ESTIMATE_TOKENS = 1024


def moments(x: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean and covariance of the tokens of each sample.

    Args:
        x: Tokens (B, N, C); with ``weights``, finite ones in padding, too.
        mask: True for real tokens (B, N), or None for all.
        weights: Weights of the tokens (B, N) of at least 0, float32 or better; 0 for padding. None if all are equal.

    Returns:
        ``x`` itself, to be passed to :func:`affine` (so that backward writes one gradient of its size, not two), the
        mean (B, C) and the biased covariance (B, C, C), in float32 or better. Without real tokens both are zero.
    """
    if weights is not None:
        weights = relative(weights)
        return _plain_weighted_moments(x, weights) if plain_only() else _WeightedMoments.apply(x, weights)
    if plain_only():
        return _plain_moments(x, mask)
    result: tuple[Tensor, Tensor, Tensor] = _Moments.apply(x, mask)
    return result


def affine(x: Tensor, mean: Tensor, mixing: Tensor, constant: Tensor, mask: Tensor | None = None) -> Tensor:
    """Apply ``(X - mean) A + c`` to each token.

    Args:
        x: Tokens (B, N, C).
        mean: (B, C), float32 or better, as ``mixing`` and ``constant``.
        mixing: A (B, C, C).
        constant: c (B, C).
        mask: True for real tokens (B, N), or None for all; the others give c.

    Returns:
        (B, N, C) of the type of ``x``.
    """
    if plain_only():
        return _plain_affine(x, mean, mixing, constant, mask)
    result: Tensor = _Affine.apply(x, mean, mixing, constant, mask)
    return result


def sum_of_squares(x: Tensor) -> Tensor:
    """Sum the squares over the tokens, (B, N, C) to (B, C), in float32 or better, keeping only ``x`` for backward."""
    if plain_only():
        return x.to(wide_type(x)).square().sum(1)
    result: Tensor = _SumOfSquares.apply(x)
    return result


class _SumOfSquares(torch.autograd.Function):
    """dX = 2 X dy; autograd itself would keep the wide copy of X, which is made in chunks here."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        wide = wide_type(x)
        out = x.new_zeros(x.shape[0], x.shape[2], dtype=wide)
        for samples, tokens in _chunks(x):
            out[samples] += x[samples, tokens].to(wide).square().sum(1)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_x: Tensor = x * (2 * grad).to(x.dtype).unsqueeze(1)
        return grad_x


class _Moments(torch.autograd.Function):
    """dX += (2 / N) (X - mu) sym(dS) + 1 dmu^T / N."""

    @staticmethod
    def forward(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        shift, number = _estimate_mean(x, mask), count(x, mask)
        total = shift.new_zeros(shift.shape, dtype=wide_type(x))  # (B, C)
        outer = total.new_zeros(*shift.shape, shift.shape[-1])  # (B, C, C)
        for samples, _, centered in _centered_chunks(x, shift, mask):
            total[samples] += _sum(centered)
            _add_gram(outer[samples], centered, centered)
        total /= number
        outer /= number.unsqueeze(-1)
        outer.baddbmm_(total.unsqueeze(2), total.unsqueeze(1), alpha=-1)
        outer.diagonal(dim1=1, dim2=2).clamp_(min=0)
        return x.view_as(x), total.add_(shift), outer

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, mask = inputs
        ctx.save_for_backward(x, mask, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_covariance: Tensor) -> tuple[Tensor, None]:
        x, mask, mean = ctx.saved_tensors
        if _is_plain(grad, grad_mean, grad_covariance):
            return _moments_backward(x, mask, mean, grad, grad_mean, grad_covariance), None
        shift, number = mean.to(x.dtype), count(x, mask)
        matrix = (grad_covariance + grad_covariance.mT) / number.unsqueeze(-1)  # (B, C, C)
        # The chunks are centered by the rounded mean; the constant contains the rounding error.
        constant = grad_mean / number - ((mean - shift).unsqueeze(1) @ matrix).squeeze(1)  # (B, C)
        matrix, constant = matrix.to(x.dtype), constant.to(x.dtype)
        # affine's backward created `grad` for this function alone, so it may be changed in place.
        for samples, tokens, centered in _centered_chunks(x, shift, mask):
            grad_chunk = grad[samples, tokens]
            _add_product(grad_chunk, centered, matrix[samples])
            grad_chunk.add_(constant[samples].unsqueeze(1))
        if mask is not None:
            grad.masked_fill_(~mask.unsqueeze(-1), 0)
        return grad, None


class _WeightedMoments(torch.autograd.Function):
    """dX += diag(w) R and dw = ((X - mu) * (R + dmu / W) / 2) 1 - <dS, S> / W.

    Here W = sum(w) and R = ((X - mu) (dS + dS^T) + 1 dmu^T) / W.
    """

    @staticmethod
    def forward(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        number = total_weight(weights)
        mean = _weighted_sum(x, weights) / number
        shift, roots = mean.to(x.dtype), weights.sqrt().to(x.dtype).unsqueeze(-1)
        outer = mean.new_zeros(*mean.shape, mean.shape[-1])  # (B, C, C)
        for samples, tokens, centered in _centered_chunks(x, shift, None):
            centered.mul_(roots[samples, tokens])
            _add_gram(outer[samples], centered, centered)
        outer /= number.unsqueeze(-1)
        rest = mean - shift
        outer.baddbmm_(rest.unsqueeze(2), rest.unsqueeze(1), alpha=-1)
        outer.diagonal(dim1=1, dim2=2).clamp_(min=0)
        return x.view_as(x), mean, outer

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_covariance: Tensor) -> tuple[Tensor, Tensor]:
        x, weights, mean, covariance = ctx.saved_tensors
        if _is_plain(grad, grad_mean, grad_covariance):
            return _weighted_moments_backward(x, weights, mean, covariance, grad, grad_mean, grad_covariance)
        number, shift = total_weight(weights), mean.to(x.dtype)
        matrix = (grad_covariance + grad_covariance.mT) / number.unsqueeze(-1)  # (B, C, C)
        slope, rest = grad_mean / number, mean - shift  # (B, C)
        constant = (slope - (rest.unsqueeze(1) @ matrix).squeeze(1)).to(x.dtype)
        matrix = matrix.to(x.dtype)
        grad_weights = -_inner(grad_covariance, covariance) / number.expand_as(weights)
        for samples, tokens, centered in _centered_chunks(x, shift, None):
            pull = torch.empty_like(centered)
            _write_product(pull, centered, matrix[samples], constant[samples])
            own = weights[samples, tokens].unsqueeze(-1).to(x.dtype)
            grad[samples, tokens].addcmul_(pull, own)
            pull = pull.to(mean.dtype) + slope[samples].unsqueeze(1)
            deviation = centered.to(mean.dtype) - rest[samples].unsqueeze(1)
            grad_weights[samples, tokens] += 0.5 * torch.linalg.vecdot(deviation, pull)
        return grad, grad_weights


class _Affine(torch.autograd.Function):
    """dA = (X - mu)^T G, dc = sum_n G, dmu = -A dc, dX = G A^T."""

    @staticmethod
    def forward(x: Tensor, mean: Tensor, mixing: Tensor, constant: Tensor, mask: Tensor | None) -> Tensor:
        shift = mean.to(x.dtype)
        narrow = mixing.to(x.dtype)
        # With the same rounded A, the contribution of a large mean cancels exactly.
        constant = constant - ((mean - shift).unsqueeze(1) @ narrow.to(mean.dtype)).squeeze(1)
        constant = constant.to(x.dtype)
        out = torch.empty_like(x)
        for samples, tokens, centered in _centered_chunks(x, shift, mask):
            _write_product(out[samples, tokens], centered, narrow[samples], constant[samples])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mean, mixing, _, mask = inputs
        ctx.save_for_backward(x, mean, mixing, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, mean, mixing, mask = ctx.saved_tensors
        if _is_plain(grad):
            return *_affine_backward(x, mean, mixing, mask, grad), None
        shift, transposed = mean.to(x.dtype), mixing.mT.to(x.dtype)
        grad_constant = torch.zeros_like(mean)
        grad_mixing = torch.zeros_like(mixing)
        grad_x = torch.empty_like(x)
        for samples, tokens, centered in _centered_chunks(x, shift, mask):
            grad_chunk = grad[samples, tokens]
            grad_constant[samples] += _sum(grad_chunk)
            _add_gram(grad_mixing[samples], centered, grad_chunk)
            _write_product(grad_x[samples, tokens], grad_chunk, transposed[samples])
        grad_mixing.baddbmm_((mean - shift).unsqueeze(2), grad_constant.unsqueeze(1), alpha=-1)
        grad_mean = -(mixing @ grad_constant.unsqueeze(2)).squeeze(2)
        return grad_x, grad_mean, grad_mixing, grad_constant, None


def _centered_chunks(x: Tensor, shift: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the tokens in chunks: samples, tokens, and ``x - shift`` there with zeros for padding.

    Each chunk overwrites the previous one.
    """
    group, rows = _chunk_sizes(x)
    buffer = x.new_empty(group, min(rows, x.shape[1]), x.shape[2])
    for samples, span in _chunks(x):
        centered = torch.sub(x[samples, span], shift[samples].unsqueeze(1), out=buffer[:, : span.stop - span.start])
        if mask is not None:
            centered.masked_fill_(~mask[samples, span].unsqueeze(-1), 0)
        yield samples, span, centered


def _chunks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield samples and tokens of each chunk."""
    batch, tokens, _ = x.shape
    group, rows = _chunk_sizes(x)
    for sample in range(0, batch, group):
        for start in range(0, tokens, rows):
            yield slice(sample, sample + group), slice(start, min(start + rows, tokens))


def _chunk_sizes(x: Tensor) -> tuple[int, int]:
    """Return samples and tokens per chunk: one sample on a CPU, where batched half products are slow; else all."""
    if x.device.type == "cpu":
        return 1, max(256, PART // x.shape[2])
    return x.shape[0], x.shape[1]


def _sum(chunk: Tensor) -> Tensor:
    """Sum over the tokens, (b, C); torch accumulates halves in float32, but a float16 result could overflow."""
    return chunk.sum(1, dtype=torch.float32) if chunk.dtype == torch.float16 else chunk.sum(1)


def _add_gram(out: Tensor, a: Tensor, b: Tensor) -> None:
    """``out += a^T b`` for (b, n, C) into (b, C, C), summed in the type of ``out``."""
    if a.dtype == out.dtype:
        out.baddbmm_(a.mT, b)
    elif a.device.type == "cuda":
        out += torch.bmm(a.mT, b, out_dtype=out.dtype)
    elif a.dtype == torch.float16:  # its sums would overflow
        out.baddbmm_(a.to(out.dtype).mT, b.to(out.dtype))
    elif len(a) == 1:  # the plain 2-D product is the faster one
        out[0] += a[0].mT @ b[0]
    else:
        out += a.mT @ b


def _write_product(out: Tensor, a: Tensor, b: Tensor, constant: Tensor | None = None) -> None:
    """``out = a b + constant`` for (b, n, C), (b, C, C) and (b, C)."""
    if len(a) == 1:  # the plain 2-D product is the faster one
        if constant is None:
            torch.mm(a[0], b[0], out=out[0])
        else:
            torch.addmm(constant[0], a[0], b[0], out=out[0])
    elif constant is None:
        torch.bmm(a, b, out=out)
    else:
        torch.baddbmm(constant.unsqueeze(1), a, b, out=out)


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """``out += a b`` for (b, n, C) and (b, C, C)."""
    if len(a) == 1:
        out[0].addmm_(a[0], b[0])
    else:
        out.baddbmm_(a, b)


def _estimate_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Estimate the mean (B, C) of the real tokens from some of them, in the type of ``x``."""
    tokens = x.shape[1]
    if mask is None:
        subset = x[:, :: max(1, tokens // ESTIMATE_TOKENS)]
        return subset.mean(1, dtype=wide_type(x)).to(x.dtype)
    real, indices = mask.to(torch.uint8).topk(min(tokens, ESTIMATE_TOKENS), dim=1)  # real tokens first
    subset = x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    subset = subset.masked_fill(real.unsqueeze(-1) == 0, 0)
    return (subset.sum(1, dtype=wide_type(x)) / real.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)


def count(x: Tensor, mask: Tensor | None) -> Tensor:
    """Count the real tokens: (B, 1), or (1, 1) if all are; at least 1, in float32 or better."""
    if mask is None:
        return torch.full((1, 1), x.shape[1], dtype=wide_type(x), device=x.device)
    return mask.sum(1, keepdim=True).clamp(min=1).to(wide_type(x))


def total_weight(weights: Tensor) -> Tensor:
    """Sum the weights (B, N) of each sample, (B, 1), or (B, 1, N, 1) to (B, 1, 1, 1); 1 where all are zero."""
    return divisor(weights.sum(-1 if weights.ndim == 2 else -2, keepdim=True))


def relative(weights: Tensor) -> Tensor:
    """Divide weights (B, N) or (B, 1, N, 1) by the largest of each sample, unless halves hold them as they are.

    Weighted means do not depend on the scale, which is therefore a constant for the gradient.
    """
    largest = weights.detach().amax(-1 if weights.ndim == 2 else -2, keepdim=True)
    is_extreme = (largest > 0) & ((largest < 2**-10) | (largest > 2**10))
    return weights / largest.where(is_extreme, 1)


def divisor(number: Tensor) -> Tensor:
    """Return numbers of tokens, or sums of their weights, to divide by: 1 where there are none."""
    return number.where(number > 0, 1)


def _weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return ``X^T w``, (B, C), in the type of the weights."""
    out = weights.new_zeros(x.shape[0], 1, x.shape[2])
    for samples, tokens in _chunks(x):
        out[samples].baddbmm_(weights[samples, None, tokens], x[samples, tokens].to(weights.dtype))
    return out.squeeze(1)


def _plain_moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    number = count(x, mask)
    if mask is not None:
        x = x.masked_fill(~mask.unsqueeze(-1), 0)
    mean = x.sum(1, dtype=number.dtype) / number
    # The square root of 1 / N on either side, so that no half overflows.
    centered = _center(x, mean, mask, number.rsqrt().unsqueeze(-1))
    return x, mean, (centered.mT @ centered).to(mean.dtype)


def _plain_weighted_moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    number, column = total_weight(weights), weights.unsqueeze(-1)
    mean = (x * column).sum(1) / number
    centered = _center(x, mean, None, number.rsqrt().unsqueeze(-1))
    return x, mean, (centered.mT @ (centered * column).to(x.dtype)).to(mean.dtype)


def _plain_affine(x: Tensor, mean: Tensor, mixing: Tensor, constant: Tensor, mask: Tensor | None) -> Tensor:
    return torch.baddbmm(constant.to(x.dtype).unsqueeze(1), _center(x, mean, mask), mixing.to(x.dtype))


def _center(x: Tensor, mean: Tensor, mask: Tensor | None, gain: Tensor | float = 1.0) -> Tensor:
    centered = (x - mean.unsqueeze(1)) * gain
    if mask is not None:
        centered = centered.masked_fill(~mask.unsqueeze(-1), 0)
    return centered.to(x.dtype)


def _is_plain(*grads: Tensor) -> bool:
    """Whether backward is differentiated or gets batched gradients, so that nothing may be done in place.

    Batched gradients come from ``is_grads_batched`` and ``vectorize`` of torch.autograd's functions.
    """
    batched = any(torch._C._functorch.is_legacy_batchedtensor(grad) for grad in grads)
    return batched or torch.is_grad_enabled() or transformed()


def _moments_backward(
    x: Tensor, mask: Tensor | None, mean: Tensor, grad: Tensor, grad_mean: Tensor, grad_covariance: Tensor
) -> Tensor:
    """Backward of :func:`_plain_moments`."""
    number = count(x, mask)
    matrix = (grad_covariance + grad_covariance.mT) / number.unsqueeze(-1)  # (B, C, C)
    grad_x = grad + _center(x, mean, mask) @ matrix.to(x.dtype) + (grad_mean / number).to(x.dtype).unsqueeze(1)
    return grad_x if mask is None else grad_x.masked_fill(~mask.unsqueeze(-1), 0)


def _weighted_moments_backward(
    x: Tensor,
    weights: Tensor,
    mean: Tensor,
    covariance: Tensor,
    grad: Tensor,
    grad_mean: Tensor,
    grad_covariance: Tensor,
) -> tuple[Tensor, Tensor]:
    """Backward of :func:`_plain_weighted_moments`."""
    number = total_weight(weights)
    matrix = (grad_covariance + grad_covariance.mT) / number.unsqueeze(-1)
    slope, centered = (grad_mean / number).unsqueeze(1), _center(x, mean, None)
    pull = (centered @ matrix.to(x.dtype)).to(mean.dtype) + slope
    grad_x = grad + (pull * weights.unsqueeze(-1)).to(x.dtype)
    own = 0.5 * (centered.to(mean.dtype) * (pull + slope)).sum(-1)
    return grad_x, own - _inner(grad_covariance, covariance) / number


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products <a, b> of (B, C, C), (B, 1)."""
    return (a * b).sum((1, 2)).unsqueeze(1)


def _affine_backward(
    x: Tensor, mean: Tensor, mixing: Tensor, mask: Tensor | None, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backward of :func:`_plain_affine`."""
    real_grad = grad if mask is None else grad.masked_fill(~mask.unsqueeze(-1), 0)
    grad_mixing = (_center(x, mean, mask).mT @ real_grad).to(mean.dtype)
    grad_mean = -(mixing @ real_grad.sum(1, dtype=mean.dtype).unsqueeze(2)).squeeze(2)
    return real_grad @ mixing.mT.to(x.dtype), grad_mean, grad_mixing, grad.sum(1, dtype=mean.dtype)
