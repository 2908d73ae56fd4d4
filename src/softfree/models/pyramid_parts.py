"""Building blocks of the SOFT pyramids: convolutions between the stages, post-norm blocks, and a stage of them."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import ConvNormAct, GELUTanh, Mlp, resample_abs_pos_embed
from torch import Tensor, nn

from softfree.attention import create_attention
from softfree.attention.base import Grid
from softfree.models.encoder import Encoder
from softfree.models.layers import StochasticDepth, apply_in_chunks
from softfree.models.patch_embed import to_tokens
from softfree.models.weights.source_grid import remember_grid

STEM_WIDTH = 32


def make_stem(in_chans: int, dim: int) -> nn.Sequential:
    """Create the stem, (B, in_chans, H, W) to (B, dim, H/4, W/4), both sides rounded up: strides 2, 1, 2."""
    widths = ((in_chans, STEM_WIDTH, 2), (STEM_WIDTH, STEM_WIDTH, 1), (STEM_WIDTH, dim, 2))
    return nn.Sequential(*(_conv(*width) for width in widths))


def make_downsampling(inner: int, outer: int) -> nn.Sequential:
    """Create the downsampling between stages, (B, inner, h, w) to (B, outer, h/2, w/2), both sides rounded up."""
    return nn.Sequential(_conv(inner, outer, 2))


def _conv(inner: int, outer: int, stride: int) -> ConvNormAct:
    # A bias before a batch norm has no effect, but published weights have one.
    return ConvNormAct(inner, outer, 3, stride=stride, bias=True)


class PostNormBlock(nn.Module):
    """``x = norm1(x + attn x)``, then ``norm2(x + mlp x)``: the block of SOFT's official code.

    As there, the MLP has the tanh form of GELU (the softmax blocks of stage 4 have the erf form). Drop path is
    stochastic depth: a sample skips a branch. In the official code it is a dropout of single elements.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        attention: "soft" or "soft_norm".
        attention_options: Its keywords.
        mlp_ratio: Hidden width of the MLP over C.
        proj_drop: Dropout in the MLP and after the attention's projection.
        drop_path: Probability that a sample skips a branch in training.
        mlp_chunk: As in :class:`~softfree.models.encoder.Block`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        attention: str = "soft",
        attention_options: dict[str, Any] | None = None,
        mlp_ratio: float = 4.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        mlp_chunk: int | None = None,
    ) -> None:
        super().__init__()
        options = {"qkv_bias": True, "proj_drop": proj_drop, **(attention_options or {})}
        self.attn = create_attention(attention, dim, num_heads, **options)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=GELUTanh, drop=proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path1, self.drop_path2 = StochasticDepth(drop_path), StochasticDepth(drop_path)
        self.mlp_chunk, self.hidden = mlp_chunk, int(dim * mlp_ratio)

    def forward(self, x: Tensor, mask: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Map tokens (B, N, C) to tokens (B, N, C); ``mask`` (B, N) and ``grid`` as in the encoder's block."""
        x = self.norm1(x + self.drop_path1(self.attn(x, attn_mask=mask, grid=grid)))
        return self.norm2(x + self.drop_path2(apply_in_chunks(self.mlp, x, self.hidden, self.mlp_chunk)))


class Stage(nn.Module):
    """Convolutions that create the tokens, their positions, an optional class token, and blocks.

    Args:
        embed: From the previous map, (B, C', H, W), to that of the stage, (B, C, h, w).
        blocks: From tokens to tokens.
        dim: Width C.
        grid: Rows and columns of the position encoding; for other grids it is interpolated bilinearly.
        class_token: Put a class token in front of the tokens.
    """

    def __init__(
        self, embed: nn.Sequential, blocks: Encoder, dim: int, grid: tuple[int, int], class_token: bool = False
    ) -> None:
        super().__init__()
        self.embed, self.blocks, self.grid_size = embed, blocks, grid
        self.num_prefix_tokens = int(class_token)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_prefix_tokens + grid[0] * grid[1], dim))
        remember_grid(self, grid)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, P + h w, C) of a map (B, C', H, W), and the grid (h, w)."""
        tokens, grid = to_tokens(self.embed(x))
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        positions = resize_stage_positions(self.pos_embed, self.grid_size, grid, self.num_prefix_tokens)
        return self.blocks(tokens + positions, None, grid), grid

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Reshape the tokens (B, P + h w, C) to (B, C, h, w), channels last in memory, without the class token."""
        return tokens[:, self.num_prefix_tokens :].mT.unflatten(2, grid)


def resize_stage_positions(
    pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """Resize positions (1, P + h w, C) to another grid as the official code does, bilinear without antialiasing."""
    return resample_abs_pos_embed(
        pos_embed, list(new), list(old), num_prefix_tokens, interpolation="bilinear", antialias=False
    )
