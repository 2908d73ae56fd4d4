"""Position codes: learned on a grid and resized, fixed on a grid or in millimeters, or from each token's neighbors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed
from torch import Tensor, nn

from softfree.attention.base import widen
from softfree.attention.grid import linear_weights
from softfree_runtime.core.errors import UserError

Waves = tuple[float, float]  # shortest and longest wavelength

# Parameter of the cubic kernel (Keys 1981) that torch uses with antialiasing.
CUBIC_A = -0.5
# Wavelengths for volumes in millimeters. Shortest: the Nyquist limit of tokens 2 mm apart, about the closest in use.
# Longest: beyond any field of view, so that no two positions in a body have the same code.
BODY_WAVES: Waves = (4.0, 1000.0)


def sincos_positions(grid: tuple[int, int], dim: int, num_prefix_tokens: int = 0) -> Tensor:
    """Compute fixed 2D sine and cosine codes (as in MoCo v3, Chen et al. 2021); zeros for prefix tokens.

    Args:
        grid: Rows and columns (h, w) of tokens.
        dim: Width C, a multiple of 4.
        num_prefix_tokens: Tokens in front of the grid.

    Returns:
        (1, num_prefix_tokens + h w, C).

    Raises:
        UserError: A width that is not a multiple of 4.
    """
    if dim % 4:
        raise UserError(f"Got pos='sincos' with width {dim}: expected a multiple of 4.")
    codes = build_sincos2d_pos_embed(list(grid), dim)  # (N, C)
    return F.pad(codes, (0, 0, num_prefix_tokens, 0)).unsqueeze(0)


def resize_positions(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resize learned codes from one token grid to another, bicubic; prefix tokens keep theirs.

    Args:
        pos_embed: (1, P + h w, C) with P prefix tokens.
        old: The grid (h, w) of ``pos_embed``.
        new: The new grid (h', w').
        num_prefix_tokens: P.

    Returns:
        (1, P + h' w', C).
    """
    # Comparing the grids would specialize an exported graph to the result.
    if torch.compiler.is_exporting() or (torch.compiler.is_compiling() and old != new):
        return resize_in_graph(pos_embed, old, new, num_prefix_tokens)
    if 1 in (old[1], new[1]) and 1 not in (old[0], new[0]):
        # On a CPU, torch 2.15 resizes images with one column incorrectly, but those with one row correctly.
        prefix, codes = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
        transposed = codes.unflatten(1, old).transpose(1, 2).flatten(1, 2)
        resized = resample_abs_pos_embed(transposed, [new[1], new[0]], [old[1], old[0]], num_prefix_tokens=0)
        return torch.cat([prefix, resized.unflatten(1, new[::-1]).transpose(1, 2).flatten(1, 2)], dim=1)
    return resample_abs_pos_embed(pos_embed, list(new), list(old), num_prefix_tokens=num_prefix_tokens)


def resize_in_graph(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resize as :func:`resize_positions` does, for a symbolic grid, by two products with matrices of weights.

    Torch's own resizing exports for one size only, since it computes its weights in a loop, and its backward pass does
    not compile (torch 2.15). The kernel is separable: ``codes' = R codes C^T``. An equal grid gives the identity, bit
    for bit.

    Args:
        pos_embed: (1, P + h w, C).
        old: The grid (h, w) of ``pos_embed``.
        new: The new grid (h', w'); both may be symbolic.
        num_prefix_tokens: P.

    Returns:
        (1, P + h' w', C).
    """
    (rows, columns), prefix = new, num_prefix_tokens
    (codes,), exact = widen(pos_embed[0, prefix:])  # (h w, C)
    width = codes.shape[1]
    with exact:
        # Products of two plain matrices: OpenVINO fails with a constant batch of them.
        codes = _cubic_weights(old[0], rows, codes) @ codes.reshape(old[0], -1)  # (h', w C)
        codes = codes.reshape(rows, old[1], width).transpose(0, 1).reshape(old[1], -1)  # (w, h' C)
        codes = _cubic_weights(old[1], columns, codes) @ codes  # (w', h' C)
    resized = codes.reshape(columns, rows, width).transpose(0, 1).reshape(1, -1, width).to(pos_embed.dtype)
    return resized if not prefix else torch.cat([pos_embed[:, :prefix], resized], dim=1)


def _cubic_weights(old: int, new: int, like: Tensor) -> Tensor:
    """Return the weights (new, old) of antialiased bicubic resizing along one axis."""
    scale = old / (like.new_ones(()) * new)
    support = scale.clamp_min(1.0)
    center = (torch.arange(new, device=like.device, dtype=like.dtype) + 0.5) * scale  # (new,)
    positions = torch.arange(old, device=like.device, dtype=like.dtype) + 0.5
    distance = ((positions - center[:, None]) / support).abs()
    near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC_A - 4 * CUBIC_A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


@torch.no_grad()
def resize_matrix(
    old: int, new: int, mode: Literal["bicubic", "bilinear"], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the matrix (new, old) of torch's resizing along one axis; bicubic resizing is antialiased."""
    units = torch.eye(old, device=device, dtype=dtype)[None, None]  # each row of this image is one position
    return F.interpolate(units, size=(old, new), mode=mode, antialias=mode == "bicubic")[0, 0].T


def resize_volume_positions(
    pos_embed: Tensor, old: Sequence[int], new: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    """Resize learned codes from one token grid of volumes to another, trilinear; prefix tokens keep theirs.

    Args:
        pos_embed: (1, P + d h w, C) with P prefix tokens.
        old: The grid (d, h, w) of ``pos_embed``.
        new: The new grid (d', h', w').
        num_prefix_tokens: P.

    Returns:
        (1, P + d' h' w', C).
    """
    if tuple(old) == tuple(new) and not torch.compiler.is_compiling():
        return pos_embed
    front, volume = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    wide = torch.promote_types(volume.dtype, torch.float32)  # no trilinear resizing in half precision on a CPU
    if torch.compiler.is_compiling():
        # Torch's own resizing does not compile for a dynamic size (torch 2.15).
        (volume,), exact = widen(volume.unflatten(1, tuple(old)))
        with exact:
            for sides in zip(old, new, strict=True):
                volume = torch.tensordot(volume, linear_weights(*sides, volume), dims=([1], [1]))  # to the last axis
        return torch.cat([front, volume.flatten(2).mT.to(pos_embed.dtype)], dim=1)
    volume = volume.mT.unflatten(2, tuple(old))
    volume = F.interpolate(volume.to(wide), size=tuple(new), mode="trilinear").to(pos_embed.dtype)
    return torch.cat([front, volume.flatten(2).mT], dim=1)


def sincos_codes(positions: Tensor, dim: int, waves: Sequence[Waves]) -> Tensor:
    """Compute sine and cosine of ``2 pi position / wavelength`` for several wavelengths along each axis.

    Each of the A axes has C // 2A wavelengths in geometric progression, sines before cosines. Remaining features are
    zero.

    Args:
        positions: (..., A), in float32 or better: bfloat16 has fewer than three digits.
        dim: Width C.
        waves: Shortest and longest wavelength of each axis, in the unit of ``positions``.

    Returns:
        (..., C) of the dtype of ``positions``.
    """
    pairs = dim // (2 * len(waves))
    codes = []
    for axis, (shortest, longest) in enumerate(waves):
        progression = torch.linspace(0, 1, pairs, device=positions.device, dtype=positions.dtype)
        lengths = shortest * (longest / shortest) ** progression
        angles = 2 * math.pi * positions[..., axis : axis + 1] / lengths
        codes += [angles.sin(), angles.cos()]
    return F.pad(torch.cat(codes, dim=-1), (0, dim - 2 * pairs * len(waves)))


def volume_codes(grid: Sequence[int], step: Sequence[float], dim: int, like: Tensor) -> Tensor:
    """Compute fixed codes of the tokens of a volume from their centers in millimeters.

    Millimeters count from the outer corner of the first voxel, so that padding at the end of an axis does not move
    tokens, and the same anatomy in the same field of view has the same codes at any spacing.

    Args:
        grid: Tokens (d, h, w).
        step: Sides of a patch in millimeters: voxels times spacing.
        dim: Width C.
        like: A tensor with the device and dtype of the result.

    Returns:
        (1, d h w, C).
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    axes = [
        (torch.arange(side, device=like.device, dtype=wide) + 0.5) * length
        for side, length in zip(grid, step, strict=True)
    ]
    pairs = dim // (2 * len(axes))
    # Axis by axis: d + h + w positions instead of d h w.
    codes = [sincos_codes(at.unsqueeze(1), 2 * pairs, [BODY_WAVES]).to(like.dtype) for at in axes]
    slices, rows, columns = codes
    shape = (*grid, 2 * pairs)
    broadcast = [slices[:, None, None], rows[None, :, None], columns[None, None, :]]
    whole = torch.cat([code.expand(shape) for code in broadcast], dim=-1)  # (d, h, w, 6 pairs)
    return F.pad(whole.flatten(0, 2), (0, dim - whole.shape[-1])).unsqueeze(0)


class PositionalConv(nn.Module):
    """``x + conv(x)`` with a depth-wise 3 x 3 convolution over the token grid (Chu et al. 2021, arXiv:2102.10882).

    Args:
        dim: Width C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, grid: tuple[int, ...] | None, mask: Tensor | None = None) -> Tensor:
        """Add the convolution to the tokens of the grid; prefix tokens stay unchanged.

        Args:
            x: Tokens (B, P + h w, C).
            grid: (h, w).
            mask: True for real tokens (B, P + h w), or None for all; the others count as zero.

        Returns:
            (B, P + h w, C).

        Raises:
            UserError: Tokens without a grid, as in a bag.
        """
        if grid is None:
            raise UserError("Got tokens without a grid: pos_conv=True needs the rows and columns of an image.")
        number = grid[0] * grid[1]
        visible = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
        image = visible[:, -number:].transpose(1, 2).unflatten(2, grid)  # (B, C, h, w), channels last in memory
        update = self.conv(image).flatten(2).transpose(1, 2)
        return x + F.pad(update, (0, 0, x.shape[1] - number, 0))
