"""One row of a layer's attention weights, without an N x N matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.attention import Attention
from softfree.attention.base import Grid, wide_type

MEANING = (
    "Attention: the signed weights with which one layer mixes values for one token; not what those values hold by "
    "then, nor what later layers make of them, and it is the same for every class."
)


def attention_row(
    attention: Attention, x: Tensor, query: int, mask: Tensor | None = None, grid: Grid | None = None
) -> Tensor:
    """Compute the weights with which one token attends to all tokens, in each head, negative ones included.

    Args:
        attention: In evaluation mode.
        x: Its input (B, N, C).
        query: Number of the token.
        mask: True for real tokens (B, N), or None for all.
        grid: See :meth:`~softfree.attention.Attention.forward`.

    Returns:
        (B, H, N), float32 or better; 0 for padded tokens.

    Raises:
        UserError: The method has no attention weights.
    """
    unit = torch.zeros(x.shape[:2], dtype=wide_type(x), device=x.device)
    unit[:, query] = 1
    return attention.weighted_rows(x, unit, mask, grid)
