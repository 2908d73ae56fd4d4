"""Position codes: learned or fixed on a grid, resized to the grid of each picture."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed
from torch import Tensor

from softfree.errors import UserError


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
    return resample_abs_pos_embed(pos_embed, list(new), list(old), num_prefix_tokens=num_prefix_tokens)
