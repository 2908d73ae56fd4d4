"""Tokens on their grid: landmarks that average windows of it, and convolutions over it.

A sequence without a grid is treated as a one-dimensional grid, on which a sample's real tokens are adjacent, whatever
the padding between them. On a grid of several dimensions, tokens keep their position; padding counts in no window.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Grid, wide_type
from softfree_runtime.core.errors import UserError


def ceil_div(number: int, divisor: int) -> int:
    """Return ``number / divisor``, rounded up, for sizes that may be symbolic.

    Neither ``-(-number // divisor)`` nor ``-number % divisor``: the exporter to ONNX rounds the quotients of negative
    sizes toward zero, and PyTorch 2.15 does not compile the modulo of a size that is not known.
    """
    return (number + divisor - 1) // divisor


def landmark_sides(grid: Grid, number: int) -> Grid:
    """Divide a grid into at most about ``number`` windows, with sides in proportion to the grid's.

    A grid of 14 x 14 and 49 windows give (7, 7).
    """
    share = (number / math.prod(grid)) ** (1 / len(grid))
    return tuple(min(side, max(1, int(side * share + 1e-6))) for side in grid)


def stride_sides(grid: Grid, stride: int) -> Grid:
    """Count the windows of side ``stride``; the last of an axis may be smaller."""
    return tuple(ceil_div(side, stride) for side in grid)


def window_means(
    t: Tensor, grid: Grid | None, mask: Tensor | None, *, number: int = 49, stride: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Average the tokens of each window; every token of the grid is in exactly one.

    Args:
        t: (B, H, P + n, D) with P tokens in front that have no position on the grid.
        grid: Sides of the grid, with product n; None for a sequence, with P = 0.
        mask: True for real tokens (B, 1, P + n, 1), or None for all.
        number: Maximum number of windows; see :func:`landmark_sides`.
        stride: Side of a window instead; the number of windows then grows with the grid.

    Returns:
        Means (B, H, m, D) in the type of ``t``, and which windows have a real token, (B, 1, m, 1), or None for all.
    """
    if grid is None:
        if mask is not None:
            return _ranked_means(t, mask, number, stride)
        grid = (t.shape[2],)
    n = math.prod(grid)
    t, mask = t[:, :, -n:], None if mask is None else mask[:, :, -n:]
    sides = landmark_sides(grid, number) if stride is None else stride_sides(grid, stride)
    if mask is None:
        return _pool(t, grid, sides, stride), None
    share = _pool(mask.to(t.dtype), grid, sides, stride)  # (B, 1, m, 1)
    real = share > 0
    return _pool(t.masked_fill(~mask, 0), grid, sides, stride) / share.where(real, 1), real


def _pool(t: Tensor, grid: Grid, sides: Grid, stride: int | None) -> Tensor:
    """Average over the axes of the grid in turn: (B, H, n, D) to (B, H, m, D)."""
    out = t.unflatten(2, grid)
    for side, windows in zip(grid, sides, strict=True):
        positions = torch.arange(side, device=t.device)
        window = positions * windows // side if stride is None else positions // stride
        inside = (window == torch.arange(windows, device=t.device).unsqueeze(1)).to(wide_type(t))  # (windows, side)
        average = (inside / inside.sum(1, keepdim=True)).to(t.dtype)
        out = torch.tensordot(out, average, dims=([2], [1]))  # replaces the axis by its windows, as the last axis
    return out.flatten(3).mT


def _ranked_means(t: Tensor, mask: Tensor, number: int, stride: int | None) -> tuple[Tensor, Tensor]:
    """Average windows of each sample's real tokens, ignoring padding."""
    rank = mask.long().cumsum(2) - 1  # (B, 1, N, 1)
    total = mask.sum(2, keepdim=True).clamp(min=1)
    if stride is None:
        windows = min(number, t.shape[2])
        window = rank * total.clamp(max=windows) // total
    else:
        windows = ceil_div(t.shape[2], stride)
        window = rank // stride
    inside = (window.mT == torch.arange(windows, device=t.device).view(-1, 1)) & mask.mT  # (B, 1, m, N)
    count = inside.sum(3, keepdim=True)
    average = (inside / count.clamp(min=1).to(wide_type(t))).to(t.dtype)
    return average @ t.masked_fill(~mask, 0), count > 0


def step(old: int, new: int, like: Tensor) -> Tensor:
    """Return ``old / new`` as a tensor (), since the ratio of symbolic numbers does not compile (torch 2.15)."""
    return like.new_ones(()) * old / new


def linear_weights(old: int, new: int, like: Tensor) -> Tensor:
    """Return the weights (new, old) of linear resizing of one axis, with the type and device of ``like``.

    Pixel centers are those of ``torch.nn.functional.interpolate``, clamped at the edge.
    """
    centers = (torch.arange(new, device=like.device, dtype=like.dtype) + 0.5) * step(old, new, like) - 0.5
    offset = centers.clamp(0, old - 1).unsqueeze(1) - torch.arange(old, device=like.device)
    return (1 - offset.abs()).clamp(min=0)


class HeadConv(nn.Module):
    """Depth-wise convolution of V over the grid with one kernel per head, added to an attention's result.

    Args:
        num_heads: H.
        kernel: Side of the kernel, odd.
        dims: Dimensions of the grid: 1, 2 or 3.
        device: Device of the kernel.
        dtype: Type of the kernel.
    """

    def __init__(
        self,
        num_heads: int,
        kernel: int,
        *,
        dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or dims not in (1, 2, 3):
            raise UserError(f"Got a kernel of side {kernel} in {dims} dimensions: expected an odd side, and 1, 2 or 3.")
        self.dims = dims
        self.weight = nn.Parameter(torch.empty(num_heads, 1, *[kernel] * dims, device=device, dtype=dtype))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, v: Tensor, grid: Grid | None, mask: Tensor | None) -> Tensor:
        """Convolve the tokens on the grid; the result is zero for those in front of it.

        Args:
            v: (B, H, P + n, D).
            grid: Sides of the grid; None for a sequence, if ``dims`` is 1.
            mask: True for real tokens (B, 1, P + n, 1), or None for all; the others count as zero.

        Returns:
            (B, H, P + n, D).
        """
        rank = None
        if grid is None:
            grid = (v.shape[2],)
            rank = None if mask is None else (mask.long().cumsum(2) - 1).clamp(min=0).expand_as(v)
        if len(grid) != self.dims:
            raise UserError(
                f"Got tokens on a grid of {len(grid)} sides for a convolution of {self.dims}: pass the "
                "grid to the attention, or create it without the convolution."
            )
        n = math.prod(grid)
        real = v if mask is None else v.masked_fill(~mask, 0)
        if rank is not None:  # real tokens side by side; padding adds zeros to one of them
            real = torch.zeros_like(real).scatter_add(2, rank, real)
        batch, heads, _, width = v.shape
        maps = real[:, :, -n:].permute(0, 3, 1, 2).reshape(batch * width, heads, *grid)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        out = convolve(maps, self.weight.to(maps.dtype), padding=self.weight.shape[-1] // 2, groups=heads)
        out = out.reshape(batch, width, heads, n).permute(0, 2, 3, 1)
        if rank is not None:
            return out.gather(2, rank)
        return F.pad(out, (0, 0, v.shape[2] - n, 0))
