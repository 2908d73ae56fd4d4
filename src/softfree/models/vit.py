"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with any attention method and any image size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from softfree.models.classifier import GridClassifier, check_grid_mask, check_names
from softfree.models.patch_embed import STEMS, Grid
from softfree.models.pooling import masked_mean
from softfree.models.pos_embed import resize_positions, sincos_positions
from softfree.models.weights.source_grid import remember_grid

__all__ = ["VisionTransformer", "masked_mean"]


class VisionTransformer(GridClassifier):
    """Tokenizer, positions, encoder, pooling, head. Parameter names are timm's.

    Images may have any size and number of channels at run time: positions are resized, the bottom and the right are
    padded to whole patches, and for another channel count the mean of the channels is repeated.

    Args:
        img_size: Side (or height and width) in pixels for which the grid of positions is created.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the tokenizer.
        num_classes: Number of logits; 0 to return pooled features.
        embed_dim: Width C.
        depth: Number of blocks.
        num_heads: Number of heads.
        mlp_ratio: Hidden width of the MLPs over C.
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        attention_options: Keywords of the attention method.
        pool: A name of :data:`~softfree.models.pooling.POOLINGS`; see :class:`Classifier`.
        class_token: Prepend a class token; default: only if ``pool`` is "token".
        stem: "patch" projection, "conv" stem of strided convolutions, or "pool" stem of convolutions and max pooling.
        pos: "learn" (codes that start as sines and cosines), "random" (learned from random ones), fixed "sincos", or
            "none".
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        proj_drop: Dropout after each projection.
        layer_scale: Initial value of a learned factor on each branch; None for no factor.
        mlp_chunk: Number of tokens that an MLP processes at a time, to save memory; see :class:`Block`.
        pos_conv: Apply a depth-wise 3 x 3 convolution to the tokens before each attention.
        act: Activation of the MLPs: "gelu", or "relu2" or "hardswish", which need no erf or exp.
        pool_options: Keywords of the pooling.

    Raises:
        UserError: An unknown choice, or choices that exclude each other.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        pool: str = "avg",
        class_token: bool | None = None,
        stem: Literal["patch", "conv", "pool"] = "patch",
        pos: Literal["learn", "random", "sincos", "none"] = "learn",
        drop_path_rate: float = 0.0,
        proj_drop: float = 0.0,
        layer_scale: float | None = None,
        mlp_chunk: int | None = None,
        pos_conv: bool = False,
        act: str = "gelu",
        pool_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes, embed_dim, pool, class_token, pool_options)
        check_names(stem=(stem, tuple(STEMS)), pos=(pos, ("learn", "random", "sincos", "none")))
        self.in_chans, self.patch_size = in_chans, patch_size
        self.patch_embed = STEMS[stem](patch_size, in_chans, embed_dim)
        height, width = to_2tuple(img_size)
        self.grid_size: Grid = (-(-height // patch_size), -(-width // patch_size))
        self.pos = pos
        self._add_positions(pos)
        self.add_encoder(
            depth,
            num_heads,
            drop_path_rate,
            attention_options or {},
            mlp_ratio=mlp_ratio,
            attention=attention,
            proj_drop=proj_drop,
            layer_scale=layer_scale,
            mlp_chunk=mlp_chunk,
            pos_conv=pos_conv,
            act=act,
        )

    def _add_positions(self, pos: str) -> None:
        """Create ``pos_embed`` (1, P + h w, C): a parameter, a fixed buffer that is not saved, or None."""
        if pos == "sincos":
            codes = sincos_positions(self.grid_size, self.embed_dim, self.num_prefix_tokens)
            self.register_buffer("pos_embed", codes, persistent=False)
            return
        length, learned = self.num_prefix_tokens + self.grid_size[0] * self.grid_size[1], pos in ("learn", "random")
        self.pos_embed = nn.Parameter(torch.zeros(1, length, self.embed_dim)) if learned else None
        if learned:
            remember_grid(self, self.grid_size)

    def init_positions(self, pos_embed: nn.Parameter) -> None:
        """Initialize learned positions by sine and cosine codes, unless they are "random" or C is no multiple of 4.

        The root mean square of the codes is 0.7, that of the tokens of a stem about 3. Random codes of standard
        deviation 0.02, as in other vision transformers, would be lost among these: a model would have to learn where a
        token is before it could use it.
        """
        super().init_positions(pos_embed)
        if self.pos == "random" or self.embed_dim % 4 or pos_embed.is_meta:
            return
        codes = sincos_positions(self.grid_size, self.embed_dim)
        with torch.no_grad():
            pos_embed[:, self.num_prefix_tokens :] = codes

    def embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None, Grid]:
        """Compute the input of the first block: tokens (B, P + N, C) with positions, mask (B, P + N) and grid."""
        if mask is not None:
            check_grid_mask(x, mask, (self.patch_size, self.patch_size), "images")
        tokens, grid = self.patch_embed(x, mask)  # (B, N, C)
        tokens, mask = self.with_class_token(tokens, mask)
        if self.pos_embed is not None:
            tokens = tokens + resize_positions(self.pos_embed, self.grid_size, grid, self.num_prefix_tokens)
        return tokens, mask, grid
