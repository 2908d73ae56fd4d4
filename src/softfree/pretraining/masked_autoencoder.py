"""Masked autoencoder (He et al. 2022, arXiv:2111.06377) around any encoder whose attention takes tokens as a set.

The encoder sees the visible patches only, a quarter of them by default, so that a step costs little more than a
quarter of a training step. The decoder is a few blocks with the encoder's own attention: timm's would be softmax,
whose cost is quadratic in the tokens. A convolutional stem overlaps its patches: before it, the pixels of hidden
patches are set to zero, the mean of a prepared image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from softfree.models.classifier import Classifier, init_linear
from softfree.models.encoder import Encoder
from softfree.models.pos_embed import sincos_positions, volume_codes
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree_runtime.core.errors import UserError

_EPS = 1e-6  # variance below which a patch is flat; He et al. use the same


class Reconstruction(NamedTuple):
    """The result of a forward pass.

    Attributes:
        loss: Mean squared error over the hidden patches, of pixels normalized within each patch.
        patches: Predicted (B, N, patch voxels x channels), normalized within each patch.
        hidden: Boolean (B, N), True for patches that the encoder did not see.
    """

    loss: Tensor
    patches: Tensor
    hidden: Tensor


class MaskedAutoencoder(nn.Module):
    """An encoder with a decoder that fills in hidden patches.

    Args:
        encoder: A transformer with a grid of patches; its head is not used.
        attention: Name of the decoder's attention, usually the encoder's.
        attention_options: Arguments of the attention.
        mask_ratio: Fraction of the patches that are hidden, above 0 and below 1.
        decoder_dim: Width of the decoder, a multiple of 4 and of ``decoder_heads``.
        decoder_depth: Number of its blocks.
        decoder_heads: Number of their heads.

    Raises:
        UserError: A fraction outside (0, 1) or that hides no patch, images of one patch, or an encoder that needs the
            whole grid of tokens.
    """

    def __init__(
        self,
        encoder: Classifier,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise UserError(f"--mask-ratio {mask_ratio}: expected a fraction of the patches above 0 and below 1")
        if not isinstance(encoder, VisionTransformer | VolumeTransformer):
            raise UserError(f"masked pretraining needs a *_vit_* or *_vit3d_* model: got a {type(encoder).__name__}")
        _refuse_grids(encoder)
        self.encoder, self.mask_ratio = encoder, mask_ratio
        patch = encoder.patch_size
        self.patch_size = (patch, patch) if isinstance(patch, int) else tuple(patch)
        number = math.prod(encoder.grid_size)
        if number < 2:
            raise UserError(
                f"masked pretraining hides some patches of each sample, and it has {number}: use smaller ones"
            )
        if round(number * (1 - mask_ratio)) == number:
            raise UserError(
                f"--mask-ratio {mask_ratio} hides none of {number} patches: expected {1 / number:.2g} or more"
            )
        self.decoder_norm = nn.LayerNorm(encoder.embed_dim, eps=1e-6)
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder = Encoder.build(
            decoder_depth, decoder_dim, decoder_heads, attention=attention, attention_options=attention_options
        )
        self.prediction_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.prediction = nn.Linear(decoder_dim, math.prod(self.patch_size) * encoder.in_chans)
        for module in (self.decoder_embed, self.decoder, self.prediction):
            module.apply(init_linear)
        for block in self.decoder:
            block.attn.init_projections()  # type: ignore[union-attr, operator]
        trunc_normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, step: int | None = None, rows: Tensor | None = None) -> Reconstruction:
        """Hide patches at random (torch's global generator), encode the others, predict the hidden ones.

        Args:
            x: Prepared images (B, channels, H, W), or (B, channels, D, H, W), of two patches or more.
            step: Number of images of the whole step, if ``x`` is a part of it; default: B.
            rows: Positions (B,) of ``x`` within the step; default: all.
        """
        targets = self.patchify(x)  # (B, N, V)
        batch, number, _ = targets.shape
        kept = min(max(1, round(number * (1 - self.mask_ratio))), number - 1)
        noise = torch.rand(step or batch, number, device=x.device)
        order = (noise if rows is None else noise[rows.to(x.device)]).argsort(dim=1)
        visible, _ = order[:, :kept].sort(dim=1)  # (B, V) in raster order
        hidden = torch.ones(batch, number, dtype=torch.bool, device=x.device).scatter(1, visible, False)
        patches = self._decode(self._encode(x, visible, hidden), visible, number, x)
        mean, variance = targets.mean(-1, keepdim=True), targets.var(-1, keepdim=True, unbiased=False)
        normalized = (targets - mean) / (variance + _EPS).sqrt()
        errors = (patches.float() - normalized).square().mean(-1)  # (B, N)
        return Reconstruction(errors[hidden].mean(), patches, hidden)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters with more than one axis to exclude from weight decay."""
        return {"mask_token", *(f"encoder.{name}" for name in self.encoder.no_weight_decay())}

    def _encode(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Encode the visible tokens, (B, P + V, C)."""
        encoder = self.encoder
        tokens, _, _ = encoder.embed(x, ~hidden)  # (B, P + N, C)
        prefix = encoder.num_prefix_tokens
        indices = (visible + prefix).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :prefix], tokens.gather(1, indices)], dim=1)
        return encoder.norm(encoder.blocks(tokens))

    def _decode(self, encoded: Tensor, visible: Tensor, number: int, x: Tensor) -> Tensor:
        """Predict all patches (B, N, V) from the encoded visible ones."""
        known = self.decoder_embed(self.decoder_norm(encoded[:, self.encoder.num_prefix_tokens :]))  # (B, V, D)
        tokens = self.mask_token.to(known.dtype).expand(len(known), number, -1)
        tokens = tokens.scatter(1, visible.unsqueeze(-1).expand(-1, -1, known.shape[-1]), known)
        return self.prediction(self.prediction_norm(self.decoder(tokens + self._codes(x, tokens))))

    def _codes(self, x: Tensor, like: Tensor) -> Tensor:
        """Return fixed codes (1, N, D) of the positions of all patches."""
        grid = self.grid_of(x.shape[2:])
        if isinstance(self.encoder, VolumeTransformer):
            return volume_codes(grid, self.encoder.patch_in_mm, like.shape[-1], like)
        return sincos_positions((grid[0], grid[1]), like.shape[-1]).to(like)

    def grid_of(self, sides: Sequence[int]) -> list[int]:
        """Return the number of patches along each side of a sample."""
        return [-(-side // part) for side, part in zip(sides, self.patch_size, strict=True)]

    def patchify(self, x: Tensor) -> Tensor:
        """Cut images (B, C, sides...) into patches (B, N, patch pixels x C), padded with zeros to whole patches."""
        if x.shape[1] != self.encoder.in_chans:
            x = x.mean(dim=1, keepdim=True).expand(-1, self.encoder.in_chans, *x.shape[2:])
        ends = [-side % part for side, part in zip(x.shape[2:], self.patch_size, strict=True)]
        x = nn.functional.pad(x, [pad for end in reversed(ends) for pad in (0, end)])
        for axis, part in enumerate(self.patch_size):
            x = x.unflatten(2 + 2 * axis, (-1, part))  # (B, C, g0, p0, g1, p1, ...)
        axes = len(self.patch_size)
        grid, inside = [2 + 2 * axis for axis in range(axes)], [3 + 2 * axis for axis in range(axes)]
        return x.permute(0, *grid, *inside, 1).flatten(1 + axes).flatten(1, axes)

    def unpatchify(self, patches: Tensor, sides: tuple[int, ...]) -> Tensor:
        """Assemble patches (B, N, patch pixels x C) to images (B, C, sides...)."""
        grid = self.grid_of(sides)
        axes = len(grid)
        x = patches.unflatten(1, grid).unflatten(1 + axes, (*self.patch_size, -1))  # (B, g..., p..., C)
        order = [index for axis in range(axes) for index in (1 + axis, 1 + axes + axis)]
        x = x.permute(0, x.ndim - 1, *order)
        for axis in range(axes):
            x = x.flatten(2 + axis, 3 + axis)
        return x[(..., *(slice(side) for side in sides))]


def _refuse_grids(encoder: Classifier) -> None:
    """Refuse layers that use the neighbors of a token: most of them are hidden."""
    block = encoder.blocks[0]
    if block.pos_conv is not None:
        raise UserError("masked pretraining hides most tokens; pos_conv needs the whole grid: leave it out")
