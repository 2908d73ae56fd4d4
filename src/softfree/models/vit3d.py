"""Vision transformer for volumes of any size (MRI, CT and other stacks of slices), with any attention method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softfree.models.classifier import GridClassifier, check_grid_mask, check_names, grid_options
from softfree.models.patch_embed_3d import STEMS_3D, Grid3d
from softfree.models.pos_embed import resize_volume_positions, volume_codes
from softfree.models.weights.source_grid import remember_grid
from softfree_runtime.core.errors import UserError

# Default grid for which Linformer learns its maps.
REFERENCE = (8, 8, 8)


class VolumeTransformer(GridClassifier):
    """Tokenizer, positions, encoder, pooling, head, as :class:`VisionTransformer`, for (B, channels, D, H, W).

    Volumes may have any size and number of channels at run time: position codes are computed for, or resized to, their
    grid, the end of each axis is padded to whole patches, and for another channel count the mean of the channels is
    repeated.

    The patch of (4, 8, 8) suits slices about twice as thick as the pixels are wide, as in clinical MRI and CT: breast
    MRI of 160 x 512 x 512 gives 163,840 tokens, a hippocampus of 35 x 50 x 35 gives 315.

    Args:
        img_size: Depth, height and width in voxels (or one side for all) for which learned positions are created.
        patch_size: Sides of a patch in voxels: slices, rows, columns (or one side for all).
        in_chans: Channels of the tokenizer.
        spacing: Millimeters between slices, rows and columns of the (resampled) volumes.
        num_classes: Number of logits; 0 to return pooled features.
        embed_dim: Width C.
        depth: Number of blocks.
        num_heads: Number of heads.
        mlp_ratio: Hidden width of the MLPs over C.
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        attention_options: Keywords of the attention method. Linformer's ``reference`` is (8, 8, 8) and the
            ``conv_dims`` of SOFT and Nystromformer are 3 by default.
        pool: A name of :data:`~softfree.models.pooling.POOLINGS`; see :class:`Classifier`.
        class_token: Prepend a class token; default: only if ``pool`` is "token".
        stem: "patch" projection, "conv" stem of strided convolutions, or "pool" stem of convolutions and max pooling.
        pos: "mm", fixed codes of a token's position in millimeters; "learn", resized to other grids; or "none".
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        proj_drop: Dropout after each projection.
        layer_scale: Initial value of a learned factor on each branch; None for no factor.
        mlp_chunk: Number of tokens that an MLP processes at a time, to save memory; see :class:`Block`.
        act: Activation of the MLPs: "gelu", or "relu2" or "hardswish", which need no erf or exp.
        pool_options: Keywords of the pooling.

    Raises:
        UserError: An unknown choice, or choices that exclude each other.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = (64, 128, 128),
        patch_size: int | Sequence[int] = (4, 8, 8),
        in_chans: int = 1,
        spacing: float | Sequence[float] = (1.0, 1.0, 1.0),
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
        pos: Literal["mm", "learn", "none"] = "mm",
        drop_path_rate: float = 0.0,
        proj_drop: float = 0.0,
        layer_scale: float | None = None,
        mlp_chunk: int | None = None,
        act: str = "gelu",
        pool_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes, embed_dim, pool, class_token, pool_options)
        check_names(stem=(stem, tuple(STEMS_3D)), pos=(pos, ("mm", "learn", "none")))
        self.in_chans, self.pos = in_chans, pos
        self.patch_size = _three_sides("patch_size", patch_size)
        self.spacing = _three("spacing", spacing)
        self.patch_embed = STEMS_3D[stem](self.patch_size, in_chans, embed_dim)
        size = _three_sides("img_size", img_size)
        self.grid_size: Grid3d = tuple(-(-s // p) for s, p in zip(size, self.patch_size, strict=True))  # type: ignore[assignment]
        length = self.num_prefix_tokens + math.prod(self.grid_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, length, embed_dim)) if pos == "learn" else None
        if pos == "learn":
            remember_grid(self, self.grid_size)
        self.add_encoder(
            depth,
            num_heads,
            drop_path_rate,
            grid_options(attention, attention_options, reference=REFERENCE, conv_dims=3),
            mlp_ratio=mlp_ratio,
            attention=attention,
            proj_drop=proj_drop,
            layer_scale=layer_scale,
            mlp_chunk=mlp_chunk,
            act=act,
        )

    def embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None, Grid3d]:
        """Compute the input of the first block: tokens (B, P + N, C) with positions, mask (B, P + N) and grid."""
        if mask is not None:
            check_grid_mask(x, mask, self.patch_size, "volumes")
        tokens, grid = self.patch_embed(x, mask)  # (B, N, C)
        if self.pos == "mm":
            tokens = tokens + volume_codes(grid, self.patch_in_mm, self.embed_dim, next(self.patch_embed.parameters()))
        tokens, mask = self.with_class_token(tokens, mask)
        if self.pos_embed is not None:
            tokens = tokens + resize_volume_positions(self.pos_embed, self.grid_size, grid, self.num_prefix_tokens)
        return tokens, mask, grid

    @property
    def patch_in_mm(self) -> tuple[float, ...]:
        """Sides of a patch in millimeters."""
        return tuple(side * step for side, step in zip(self.patch_size, self.spacing, strict=True))


def _three(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    """Return one number per axis; all must be finite and above zero."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(values) != 3 or not all(isinstance(v, (int, float)) and 0 < v < math.inf for v in values):
        raise UserError(f"Got {name}={value!r}: expected three numbers above zero, for slices, rows and columns.")
    return values


def _three_sides(name: str, value: int | Sequence[int]) -> Grid3d:
    values = _three(name, value)
    if any(side != int(side) for side in values):
        raise UserError(f"Got {name}={value!r}: expected whole numbers of voxels.")
    return int(values[0]), int(values[1]), int(values[2])
