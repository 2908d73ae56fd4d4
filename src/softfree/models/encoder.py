"""The transformer encoder, shared by all tokenizers and attention methods."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import LayerScale, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from softfree.attention import create_attention
from softfree.attention.base import Grid, transformed
from softfree.models.layers import StochasticDepth, act_layer, apply_in_chunks, drop_path_checkpoint_options
from softfree.models.pos_embed import PositionalConv
from softfree_runtime.core.errors import UserError


class Block(nn.Module):
    """Pre-norm block: ``x + ls1(attn(norm1 x))``, then ``x + ls2(mlp(norm2 x))``, with timm's names.

    With ``pos_conv`` the tokens go through a :class:`~softfree.models.pos_embed.PositionalConv` first, which
    leaves the attention itself unchanged and SeqNorm's Gram order exact.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        mlp_ratio: Hidden width of the MLP over C.
        attention: Name of the attention method.
        attention_options: Its keywords.
        proj_drop: Dropout in the MLP and after the attention's projection.
        drop_path: Probability that a sample skips a branch in training (stochastic depth).
        layer_scale: Initial value of a learned factor per feature on each branch; None for no factor.
        mlp_chunk: Number of tokens that the MLP processes at a time, recomputing its activations in the backward pass:
            less memory, about a quarter more time for the MLP. None: all in training, as many as fit the cache in
            inference.
        pos_conv: Convolve the tokens over the grid before the attention.
        act: Activation of the MLP, a name of :data:`~softfree.models.layers.ACTS`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        mlp_chunk: int | None = None,
        pos_conv: bool = False,
        act: str = "gelu",
    ) -> None:
        super().__init__()
        if mlp_chunk is not None and mlp_chunk < 1:
            raise UserError(f"Got mlp_chunk={mlp_chunk}: expected a positive number of tokens, or None.")
        options = {"qkv_bias": True, "proj_drop": proj_drop, **(attention_options or {})}
        self.pos_conv = PositionalConv(dim) if pos_conv else None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = create_attention(attention, dim, num_heads, **options)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path1 = StochasticDepth(drop_path)

        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer(act), drop=proj_drop)
        self.mlp_chunk, self.hidden = mlp_chunk, int(dim * mlp_ratio)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path2 = StochasticDepth(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Map tokens (B, N, C) to tokens (B, N, C).

        Args:
            x: Tokens; those of the grid come last.
            mask: Boolean (B, N), True for real tokens, or None for all.
            grid: Rows and columns of the tokens; required by ``pos_conv`` and attentions with landmarks.
        """
        if self.pos_conv is not None:
            x = self.pos_conv(x, grid, mask)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=mask, grid=grid)))
        return x + self.drop_path2(apply_in_chunks(self._feed_forward, x, self.hidden, self.mlp_chunk))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(self.norm2(x)))


class Encoder(nn.Sequential):
    """A sequence of blocks that share the mask.

    With ``grad_checkpointing`` a block keeps only its input for the backward pass and is recomputed there, except under
    torch.func, which does not support checkpointing.
    """

    grad_checkpointing = False

    @classmethod
    def build(cls, depth: int, dim: int, num_heads: int, drop_path_rate: float = 0.0, **options: Any) -> Encoder:
        """Stack ``depth`` equal blocks, with drop path growing linearly from 0 to ``drop_path_rate``."""
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        return cls(*(Block(dim, num_heads, drop_path=rate, **options) for rate in rates))

    def forward(self, x: Tensor, mask: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Map tokens (B, N, C) to tokens (B, N, C); ``mask`` and ``grid`` as in :meth:`Block.forward`."""
        for block in self:
            if self.grad_checkpointing and torch.is_grad_enabled() and not transformed():
                x = checkpoint(block, x, mask, grid, use_reentrant=False, **drop_path_checkpoint_options(block))
            else:
                x = block(x, mask, grid)
        return x
