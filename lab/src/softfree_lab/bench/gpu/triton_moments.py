"""Triton kernels for the two passes of SeqNorm's Gram order, on trial: `bench gpu` times them beside PyTorch's.

On a GPU, :mod:`softfree.attention.moments` writes the centered tokens to memory before each product. Here they are
centered in registers, so that X is read and only the result written; the covariance, which is symmetric, is computed
from half of its tiles. They enter the package if they are at least 1.2 times as fast as the compiled order there.
Tokens without mask and importance only.

With TRITON_INTERPRET=1 all of it runs on a processor, slowly, with bfloat16 products in float32, because the
interpreter multiplies the bits of bfloat16 as integers (Triton 3.9).
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from softfree.attention import SeqNormAttention
from softfree.attention.moments import ESTIMATE_TOKENS
from softfree.attention.seqnorm import orders

INTERPRETED = triton.knobs.runtime.interpret
# Tokens and features per tile, warps and stages: the first for few tokens, the fastest, by measurement, for many.
TILES = [(64, 64, 4, 3), (64, 128, 8, 3), (128, 128, 8, 3)]
MANY_TOKENS = 8192
PROGRAMS = 512  # that a covariance is divided into at least: a few for each multiprocessor
LEAST_TOKENS = 512  # of a program: each one writes a tile of the covariance
LARGEST_TILE = max(features for _, features, _, _ in TILES)
WIDE_PRODUCTS = tl.constexpr(INTERPRETED)


class TritonGramOrder(nn.Module):
    """A SeqNorm attention in the Gram order with both passes in Triton, as long as it is called through this.

    Raises:
        ValueError: Another order.
    """

    def __init__(self, attention: SeqNormAttention) -> None:
        super().__init__()
        if attention.order != "gram":
            raise ValueError(f"Got the order {attention.order!r}: these kernels are of the order 'gram'")
        self.attention = attention

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        with mock.patch.multiple(orders, moments=moments, affine=affine):
            out: Tensor = self.attention(x, grid=grid)
        return out


def moments(x: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what :func:`softfree.attention.moments.moments` does, for tokens (B, N, C) without mask and weights.

    Raises:
        NotImplementedError: With a mask or weights.
    """
    if mask is not None or weights is not None:
        raise NotImplementedError("the Triton kernels know neither masks nor weights")
    result: tuple[Tensor, Tensor, Tensor] = _Moments.apply(x)
    return result


def affine(x: Tensor, mean: Tensor, mixing: Tensor, constant: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute what :func:`softfree.attention.moments.affine` does, without mask.

    Raises:
        NotImplementedError: With a mask.
    """
    if mask is not None:
        raise NotImplementedError("the Triton kernels know no masks")
    result: Tensor = _Affine.apply(x, mean, mixing, constant)
    return result


class _Moments(torch.autograd.Function):
    """As in the package, the covariance from tokens centered by an estimate of their mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        shift = x[:, :: max(1, x.shape[1] // ESTIMATE_TOKENS)].mean(1, dtype=torch.float32).to(x.dtype)
        outer, total = centered_products(x, shift)
        rest = total / x.shape[1]
        covariance = torch.baddbmm(outer, rest.unsqueeze(2), rest.unsqueeze(1), beta=1 / x.shape[1], alpha=-1)
        covariance.diagonal(dim1=1, dim2=2).clamp_(min=0)
        mean = rest + shift
        ctx.save_for_backward(x, mean)
        return x.view_as(x), mean, covariance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_covariance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        shift = mean.to(x.dtype)
        matrix = (grad_covariance + grad_covariance.mT) / x.shape[1]
        constant = grad_mean / x.shape[1] - ((mean - shift).unsqueeze(1) @ matrix).squeeze(1)
        # affine's backward created `grad` for this function alone, so it may be changed in place.
        return centered_affine(x, shift, matrix.to(x.dtype), constant, grad)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, mixing: Tensor, constant: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, mixing)
        shift, narrow = mean.to(x.dtype), mixing.to(x.dtype)
        constant = constant - ((mean - shift).unsqueeze(1) @ narrow.to(mean.dtype)).squeeze(1)
        return centered_affine(x, shift, narrow, constant)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, mean, mixing = ctx.saved_tensors
        grad, shift = grad.contiguous(), mean.to(x.dtype)
        grad_mixing, grad_constant = centered_products(x, shift, grad)
        grad_mixing.baddbmm_((mean - shift).unsqueeze(2), grad_constant.unsqueeze(1), alpha=-1)
        grad_mean = -(mixing @ grad_constant.unsqueeze(2)).squeeze(2)
        return grad @ mixing.mT.to(x.dtype), grad_mean, grad_mixing, grad_constant


def centered_products(x: Tensor, shift: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute ``(X - shift)^T Y`` and the sum of Y's rows, in float32, where Y is ``X - shift`` itself by default.

    Args:
        x: Tokens (B, N, C), contiguous.
        shift: (B, C), of the same type.
        other: Y, (B, N, C), contiguous, or None.

    Returns:
        (B, C, C) and (B, C). Each run of tokens has its own part of the sum, so that repeated calls are equal.
    """
    batch, tokens, width = x.shape
    tiles = triton.cdiv(width, LARGEST_TILE) ** 2
    runs = max(1, min(PROGRAMS // (batch * tiles), tokens // LEAST_TOKENS))
    run = triton.cdiv(triton.cdiv(tokens, runs), 128) * 128
    runs = triton.cdiv(tokens, run)
    outer = torch.empty(batch, runs, width, width, device=x.device, dtype=torch.float32)
    total = torch.empty(batch, runs, width, device=x.device, dtype=torch.float32)
    _launch(
        *PRODUCTS,
        lambda meta: (triton.cdiv(width, meta["FEATURES"]) ** 2, runs, batch),
        (x, x if other is None else other, shift, outer, total, tokens, width, run),
        tokens,
        SYMMETRIC=other is None,
    )
    return outer.sum(1), total.sum(1)


def centered_affine(
    x: Tensor, shift: Tensor, mixing: Tensor, constant: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Compute ``(X - shift) A + c``, plus ``residual``, which is overwritten by the result.

    Args:
        x: Tokens (B, N, C), contiguous.
        shift: (B, C), of the same type.
        mixing: A (B, C, C), of the same type.
        constant: c (B, C).
        residual: (B, N, C), of the same type, or None.

    Returns:
        (B, N, C), of the same type.
    """
    batch, tokens, width = x.shape
    out = torch.empty_like(x) if residual is None else residual.contiguous()
    _launch(
        *AFFINE,
        lambda meta: (triton.cdiv(tokens, meta["TOKENS"]) * triton.cdiv(width, meta["FEATURES"]), batch),
        (x, shift, mixing.contiguous(), constant.float().contiguous(), out, tokens, width),
        tokens,
        RESIDUAL=residual is not None,
    )
    return out


@triton.jit
def _products_kernel(  # type: ignore[no-untyped-def]
    x, y, shift, outer, total, tokens, width, run,
    SYMMETRIC: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """One tile of the products, over one run of tokens."""
    columns = tl.cdiv(width, FEATURES)
    left, right = tl.program_id(0) // columns, tl.program_id(0) % columns
    if SYMMETRIC and right < left:
        return
    part, sample = tl.program_id(1), tl.program_id(2)
    rows = tl.arange(0, TOKENS)
    of_x = left * FEATURES + tl.arange(0, FEATURES)
    of_y = right * FEATURES + tl.arange(0, FEATURES)
    x += sample.to(tl.int64) * tokens * width
    y += sample.to(tl.int64) * tokens * width
    shift_x = tl.load(shift + sample * width + of_x, mask=of_x < width, other=0)
    shift_y = tl.load(shift + sample * width + of_y, mask=of_y < width, other=0)
    products = tl.zeros((FEATURES, FEATURES), tl.float32)
    sums = tl.zeros((FEATURES,), tl.float32)
    for start in range(part * run, tl.minimum(part * run + run, tokens), TOKENS):
        token = (start + rows).to(tl.int64)
        # A run is a multiple of TOKENS, so only the end of the last one needs a mask.
        real_x = (token < tokens)[:, None] & (of_x < width)[None, :]
        real_y = (token < tokens)[:, None] & (of_y < width)[None, :]
        a = tl.load(x + token[:, None] * width + of_x[None, :], mask=real_x, other=0)
        b = tl.load(y + token[:, None] * width + of_y[None, :], mask=real_y, other=0)
        a = tl.where(real_x, a.to(tl.float32) - shift_x.to(tl.float32)[None, :], 0).to(x.dtype.element_ty)
        if SYMMETRIC:
            b = tl.where(real_y, b.to(tl.float32) - shift_y.to(tl.float32)[None, :], 0).to(x.dtype.element_ty)
        sums += tl.sum(b.to(tl.float32), 0)
        if WIDE_PRODUCTS:
            a, b = a.to(tl.float32), b.to(tl.float32)
        products = tl.dot(tl.trans(a), b, products, input_precision="ieee")
    slot = sample.to(tl.int64) * tl.num_programs(1) + part
    outer += slot * width * width
    inside = (of_x < width)[:, None] & (of_y < width)[None, :]
    tl.store(outer + of_x[:, None] * width + of_y[None, :], products, mask=inside)
    if SYMMETRIC and left != right:
        tl.store(outer + of_y[None, :] * width + of_x[:, None], products, mask=inside)
    if left == 0:
        tl.store(total + slot * width + of_y, sums, mask=of_y < width)


@triton.jit
def _affine_kernel(  # type: ignore[no-untyped-def]
    x, shift, mixing, constant, out, tokens, width,
    RESIDUAL: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """One tile of the result; neighbors in the order of programs share their tokens, which stay in the cache."""
    columns = tl.cdiv(width, FEATURES)
    sample = tl.program_id(1)
    token = (tl.program_id(0) // columns).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    feature = (tl.program_id(0) % columns) * FEATURES + tl.arange(0, FEATURES)
    x += sample.to(tl.int64) * tokens * width
    out += sample.to(tl.int64) * tokens * width
    mixing += sample.to(tl.int64) * width * width
    sums = tl.zeros((TOKENS, FEATURES), tl.float32)
    for start in range(0, width, FEATURES):
        inner = start + tl.arange(0, FEATURES)
        real = (token < tokens)[:, None] & (inner < width)[None, :]
        a = tl.load(x + token[:, None] * width + inner[None, :], mask=real, other=0)
        near = tl.load(shift + sample * width + inner, mask=inner < width, other=0)
        a = tl.where(real, a.to(tl.float32) - near.to(tl.float32)[None, :], 0).to(x.dtype.element_ty)
        inside = (inner < width)[:, None] & (feature < width)[None, :]
        b = tl.load(mixing + inner[:, None] * width + feature[None, :], mask=inside, other=0)
        if WIDE_PRODUCTS:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision="ieee")
    sums += tl.load(constant + sample * width + feature, mask=feature < width, other=0)[None, :]
    place = out + token[:, None] * width + feature[None, :]
    written = (token < tokens)[:, None] & (feature < width)[None, :]
    if RESIDUAL:
        sums += tl.load(place, mask=written, other=0).to(tl.float32)
    tl.store(place, sums.to(out.dtype.element_ty), mask=written)


def _tuned(kernel: Any, key: str, restored: list[str]) -> Any:
    """Let Triton choose the tiles by measurement, for each number of tokens and features."""
    configs = [
        triton.Config({"TOKENS": tokens, "FEATURES": features}, num_warps=warps, num_stages=stages)
        for tokens, features, warps, stages in TILES
    ]
    return triton.autotune(configs, key=["tokens", "width", key], restore_value=restored)(kernel)


def _launch(kernel: Any, tuned: Any, grid: Any, arguments: tuple[Any, ...], tokens: int, **constants: bool) -> None:
    if tokens >= MANY_TOKENS and not INTERPRETED:  # the interpreter has no clock
        tuned[grid](*arguments, **constants)
        return
    rows, features, warps, stages = TILES[0]
    options = {} if INTERPRETED else {"num_warps": warps, "num_stages": stages}
    kernel[grid](*arguments, TOKENS=rows, FEATURES=features, **constants, **options)


PRODUCTS = (_products_kernel, _tuned(_products_kernel, "SYMMETRIC", []))
AFFINE = (_affine_kernel, _tuned(_affine_kernel, "RESIDUAL", ["out"]))
