"""Linformer (Wang et al. 2020, "Self-attention with linear complexity", arXiv:2006.04768).

Learned matrices E and F (k x n), shared by the heads of a layer, compress the n keys and values to k of them:

    O_h = softmax(Q_h (E K_h)^T / sqrt(D)) (F V_h)

The paper's E and F are for one length. Here each of their rows is a map over a reference grid of n0 positions, resized
to the actual grid by linear interpolation along each axis and multiplied by n0 / n, so that the sum of a row is
preserved. The real tokens of a sequence without a grid are spread evenly over the reference grid in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Attention, Grid, widen
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.grid import linear_weights, step
from softfree.attention.linformer.cost import linformer_cost
from softfree.attention.linformer.reference import linformer_reference
from softfree.attention.registry import register_attention
from softfree_runtime.core.errors import UserError

# Default rows of E and F, and sides of the grid for which they are learned.
LANDMARKS, REFERENCE = 64, (14, 14)


@register_attention("linformer")
class LinformerAttention(Attention):
    """Softmax attention to k learned mixtures of the tokens; time grows with N k.

    Tokens in front of the grid, such as a class token, have no position on the maps: their own keys and values
    join the k compressed ones. Without a grid, they are the first tokens of the sequence. Padding counts as zero, so a
    map that covers only padding keeps its share of the softmax with score 0 and value 0. Sums and softmax are in
    float32, or float64 if the input is.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        reference: Sides of the grid that the maps are learned for, with the dimensions of the images.
        landmarks: k, the number of rows of E and F.
        share_kv: Use one matrix for keys and values, E = F.
        **options: See :class:`~softfree.attention.base.Attention`.

    Raises:
        UserError: No landmarks, or a reference without positions.
    """

    linear_in_values = True
    reference_mix = linformer_reference

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        reference: Sequence[int] = REFERENCE,
        landmarks: int = LANDMARKS,
        share_kv: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if landmarks < 1 or not reference or min(reference) < 1:
            raise UserError(
                f"Got {landmarks} landmarks for a grid of {reference}: expected one or more, such as (14, 14)."
            )
        self.reference = tuple(reference)
        factory_options: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        shape = (landmarks, math.prod(self.reference))
        self.k_maps = nn.Parameter(torch.empty(shape, **factory_options))
        self.v_maps = None if share_kv else nn.Parameter(torch.empty(shape, **factory_options))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize with standard deviation n0^-1/2, which keeps the size of independent keys and values."""
        for maps in (self.k_maps, self.v_maps):
            if maps is not None:
                nn.init.normal_(maps, std=maps.shape[1] ** -0.5)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix by the formula of the module."""
        dtype = q.dtype
        (q, k, v), exact = widen(q, k, v)
        with exact:
            key_mask = None
            if mask is not None:
                k, v = k.masked_fill(~mask, 0), v.masked_fill(~mask, 0)
            k_maps, v_maps = self._maps(q, mask, grid)
            if grid is None:
                k, v = k_maps @ k, v_maps @ v
            else:
                positions = math.prod(grid)
                front = q.shape[2] - positions
                k = torch.cat([k[:, :, :front], k_maps @ k[:, :, front:]], dim=2)  # (B, H, P + k, D)
                v = torch.cat([v[:, :, :front], v_maps @ v[:, :, front:]], dim=2)
                if mask is not None and front:
                    key_mask = F.pad(mask[:, :, :front].mT, (0, k.shape[2] - front), value=True)  # (B, 1, 1, P + k)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        return out.to(dtype)

    def _maps(self, like: Tensor, mask: Tensor | None, grid: Grid | None) -> tuple[Tensor, Tensor]:
        """Return E and F for the actual tokens, (k, n) or (B, 1, k, n), with the dtype and device of ``like``."""
        if grid is not None and len(grid) != len(self.reference):
            raise UserError(
                f"Got tokens on a grid of {len(grid)} sides for Linformer's maps of {len(self.reference)}: create the "
                "attention with a reference of as many sides, such as reference=(8, 8, 8) for volumes."
            )
        resized: list[Tensor] = []
        for maps in (self.k_maps, self.v_maps):
            if maps is None:
                resized.append(resized[0])
            elif grid is None:
                resized.append(spread(maps.to(like.dtype), like.shape[2], mask))
            else:
                resized.append(resize(maps.to(like.dtype), self.reference, grid))
        return resized[0], resized[1]

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return linformer_cost(shape, LANDMARKS, REFERENCE)


def resize(maps: Tensor, reference: Grid, grid: Grid) -> Tensor:
    """Resize maps (k, n0) over the reference grid to another (k, n), preserving their sums.

    Linear along each axis: one product per axis, for any number of axes.
    """
    out = maps.unflatten(1, reference)
    for old, new in zip(reference, grid, strict=True):
        out = torch.tensordot(out, linear_weights(old, new, maps) * step(old, new, maps), dims=([1], [1]))
    return out.flatten(1)


def spread(maps: Tensor, tokens: int, mask: Tensor | None) -> Tensor:
    """Resize maps (k, n0) in raster order to the real tokens of a sequence: (k, N), or (B, 1, k, N) with a mask.

    Args:
        maps: (k, n0).
        tokens: N.
        mask: True for real tokens (B, 1, N, 1), or None for all. Columns of the others are meaningless.
    """
    positions = maps.shape[1]
    if mask is None:
        rank = torch.arange(tokens, device=maps.device)
        ratio = positions / torch.full((1,), tokens, device=maps.device, dtype=maps.dtype)
    else:
        rank = mask[:, :, :, 0].long().cumsum(2) - 1  # (B, 1, N)
        ratio = positions / mask[:, :, :, 0].sum(2, keepdim=True).clamp(min=1).to(maps.dtype)
    centers = ((rank + 0.5) * ratio - 0.5).clamp(0, positions - 1)
    low = centers.long()
    fraction = (centers - low).unsqueeze(-1)
    columns = maps.mT  # (n0, k)
    interpolated = columns[low] * (1 - fraction) + columns[(low + 1).clamp(max=positions - 1)] * fraction
    return (interpolated * ratio.unsqueeze(-1)).mT
