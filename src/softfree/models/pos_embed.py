"""Position codes: learned or fixed on a grid, resized to the grid of each image; or from each token's neighbors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed
from torch import Tensor, nn

from softfree.attention.base import widen
from softfree_runtime.core.errors import UserError

# Of the cubic kernel (Keys 1981), as torch has it where it antialiases.
A = -0.5


def sincos_positions(grid: tuple[int, int], dim: int, num_prefix_tokens: int = 0) -> Tensor:
    """Compute fixed 2D sine and cosine codes (as in MoCo v3, Chen et al. 2021); zeros for prefix tokens.

    Args:
        grid: Rows and columns (h, w) of tokens.
        dim: Width C, a multiple of 4.
        num_prefix_tokens: Tokens in front of the grid.

    Returns:
        (1, num_prefix_tokens + h w, C).

    Raises:
        UserError: a width that is no multiple of 4.
    """
    if dim % 4:
        raise UserError(f"Got pos='sincos' with width {dim}: expected a multiple of 4.")
    codes = build_sincos2d_pos_embed(list(grid), dim)  # (N, C)
    return F.pad(codes, (0, 0, num_prefix_tokens, 0)).unsqueeze(0)


def resize_positions(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resize, bicubic, from one token grid to another; prefix tokens keep their codes.

    Args:
        pos_embed: (1, P + h w, C) with P prefix tokens.
        old: The grid (h, w) of ``pos_embed``.
        new: The grid (h', w') that is wanted.
        num_prefix_tokens: P.

    Returns:
        (1, P + h' w', C).
    """
    # An exported graph is not even asked whether the grids are equal: it would be bound to the answer.
    if torch.compiler.is_exporting() or (torch.compiler.is_compiling() and old != new):
        return resize_in_graph(pos_embed, old, new, num_prefix_tokens)
    if 1 in (old[1], new[1]) and 1 not in (old[0], new[0]):
        # torch 2.15 on a CPU is wrong about images of one column, and right about those of one row.
        prefix, codes = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
        turned = codes.unflatten(1, old).transpose(1, 2).flatten(1, 2)
        resized = resample_abs_pos_embed(turned, [new[1], new[0]], [old[1], old[0]], num_prefix_tokens=0)
        return torch.cat([prefix, resized.unflatten(1, new[::-1]).transpose(1, 2).flatten(1, 2)], dim=1)
    return resample_abs_pos_embed(pos_embed, list(new), list(old), num_prefix_tokens=num_prefix_tokens)


def resize_in_graph(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resize as :func:`resize_positions` does, by two products with matrices of weights: for a grid that is symbolic.

    Torch's own resizing exports for one size only: its weights are made by a loop that no graph holds; and its backward
    does not compile for any size (torch 2.15). The kernel is the same for rows and columns, so that a matrix for each
    is enough: ``codes' = R codes C^T``. An equal grid gives the identity to the last bit.

    Args:
        pos_embed: (1, P + h w, C).
        old: The grid (h, w) of ``pos_embed``.
        new: The grid (h', w') that is wanted; both may be symbolic.
        num_prefix_tokens: P.

    Returns:
        (1, P + h' w', C).
    """
    (rows, columns), prefix = new, num_prefix_tokens
    (codes,), exact = widen(pos_embed[0, prefix:])  # (h w, C)
    width = codes.shape[1]
    with exact:
        # Plain products of two matrices: OpenVINO stumbles over a constant batch of them.
        codes = _weights(old[0], rows, codes) @ codes.reshape(old[0], -1)  # (h', w C)
        codes = codes.reshape(rows, old[1], width).transpose(0, 1).reshape(old[1], -1)  # (w, h' C)
        codes = _weights(old[1], columns, codes) @ codes  # (w', h' C)
    resized = codes.reshape(columns, rows, width).transpose(0, 1).reshape(1, -1, width).to(pos_embed.dtype)
    return resized if not prefix else torch.cat([pos_embed[:, :prefix], resized], dim=1)


def _weights(old: int, new: int, like: Tensor) -> Tensor:
    """Weights (new, old) of bicubic resizing that averages over what a larger step covers."""
    scale = old / (like.new_ones(()) * new)
    reach = scale.clamp_min(1.0)
    center = (torch.arange(new, device=like.device, dtype=like.dtype) + 0.5) * scale  # (new,)
    places = torch.arange(old, device=like.device, dtype=like.dtype) + 0.5
    distance = ((places - center[:, None]) / reach).abs()
    near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * A - 4 * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


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
        """Add to each token of the grid what its neighbors say; prefix tokens stay as they are.

        Args:
            x: Tokens (B, P + h w, C).
            grid: (h, w).
            mask: True for real tokens (B, P + h w), or None for all; the others are seen as zero.

        Returns:
            (B, P + h w, C).

        Raises:
            UserError: tokens without a grid, as in a bag.
        """
        if grid is None:
            raise UserError("Got tokens without a grid: pos_conv=True needs the rows and columns of an image.")
        number = grid[0] * grid[1]
        seen = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
        image = seen[:, -number:].transpose(1, 2).unflatten(2, grid)  # (B, C, h, w), channels last in memory
        told = self.conv(image).flatten(2).transpose(1, 2)
        return x + F.pad(told, (0, 0, x.shape[1] - number, 0))
