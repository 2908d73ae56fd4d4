"""The tokens of a volume, a slab of token slices at a time."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.models.patch_embed_3d import ConvStem3d
from softfree.models.pos_embed import resize_matrix, volume_codes
from softfree.models.vit3d import VolumeTransformer
from softfree_runtime.core.errors import UserError


class VolumeTokens:
    """A :class:`~softfree.streaming.token_sources.TokenSource` of a volume, in slabs of whole token slices.

    A convolutional stem also reads the token slices above and below that its convolutions reach.

    Args:
        model: Provides tokenizer, positions and class token.
        volume: (channels, D, H, W), a tensor or array; a memory-mapped one is read in slabs.
        chunk: Approximate number of tokens per chunk, at least one slice.
        mask: Boolean (N,) or (1, N), True for real patch tokens in raster order. Slabs without any are never read.

    Raises:
        UserError: A volume of another shape, or a mask of another size.
    """

    def __init__(
        self, model: VolumeTransformer, volume: Tensor | np.ndarray, chunk: int, mask: Tensor | None = None
    ) -> None:
        if volume.ndim == 5 and len(volume) == 1:
            volume = volume[0]
        if volume.ndim != 4 or 0 in volume.shape:
            raise UserError(f"Got a volume of shape {tuple(volume.shape)}: expected (channels, depth, height, width).")
        self.model, self.volume = model, volume
        self.grid = tuple(-(-side // patch) for side, patch in zip(volume.shape[1:], model.patch_size, strict=True))
        self.plane = self.grid[1] * self.grid[2]
        if mask is not None and (mask.dtype != torch.bool or mask.numel() != math.prod(self.grid)):
            raise UserError(
                f"Got a mask {tuple(mask.shape)} of {mask.dtype} for a volume {tuple(volume.shape)}: expected "
                f"{math.prod(self.grid)} booleans, True for real tokens of the {self.grid} grid."
            )
        self.mask = None if mask is None else mask.reshape(-1, self.plane)
        self.halo = _halo(model.patch_embed)
        self.prefix = model.num_prefix_tokens
        learned = (model.cls_token, model.pos_embed)
        self.parameters = [*model.patch_embed.parameters(), *(p for p in learned if isinstance(p, nn.Parameter))]
        slices = max(1, chunk // self.plane)
        slabs = [(top, min(top + slices, self.grid[0])) for top in range(0, self.grid[0], slices)]
        self.slabs = [slab for slab in slabs if self._number(slab)] or [(0, 0)] * bool(self.prefix)
        self.sizes = [self._number(slab) + self.prefix * (not at) for at, slab in enumerate(self.slabs)]

    def tokens(self, chunk: int) -> Tensor:
        """Compute the tokens (1, n, C) of a chunk; differentiable in the parameters."""
        top, bottom = self.slabs[chunk]
        class_token, positions = self.model.cls_token, self.model.pos_embed
        tensors: list[Tensor] = []
        if top < bottom:
            slab = self._patches(top, bottom)
            if class_token is not None:  # as in memory, where types are promoted
                slab = slab.to(torch.promote_types(slab.dtype, class_token.dtype))
            if positions is not None:
                slab = slab + self._learned(positions[:, self.prefix :], top, bottom)
            tensors = [slab if self.mask is None else slab[:, self.mask[top:bottom].flatten()]]
        if class_token is not None and not chunk:
            tensors.insert(0, class_token if positions is None else class_token + positions[:, : self.prefix])
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=1)

    def _patches(self, top: int, bottom: int) -> Tensor:
        first, last = max(0, top - self.halo), min(bottom + self.halo, self.grid[0])
        depth, like = self.model.patch_size[0], self.parameters[0]
        slab = self.volume[:, first * depth : last * depth]
        voxels = slab if isinstance(slab, Tensor) else torch.from_numpy(np.array(slab))
        mask = None if self.mask is None else self.mask[first:last].reshape(1, -1).to(like.device)
        tokens, _ = self.model.patch_embed(voxels.to(like.device, like.dtype).unsqueeze(0), mask)
        tokens = tokens[:, (top - first) * self.plane : (bottom - first) * self.plane]
        return tokens + self._in_mm(top, bottom, like) if self.model.pos == "mm" else tokens

    def _in_mm(self, top: int, bottom: int, like: Tensor) -> Tensor:
        """Return position codes in millimeters of some slices; a third of the features encodes the slice."""
        step, width = self.model.patch_in_mm, self.model.embed_dim
        axis = volume_codes((self.grid[0], 1, 1), step, width, like)[:, top:bottom, None]  # (1, n, 1, C)
        plane = volume_codes((1, *self.grid[1:]), step, width, like)[:, None]  # (1, 1, h w, C)
        is_axis = torch.arange(width, device=like.device) < 2 * (width // 6)
        return torch.where(is_axis, axis, plane).flatten(1, 2)

    def _learned(self, codes: Tensor, top: int, bottom: int) -> Tensor:
        """Return the learned codes of some slices, resized along the slices by a matrix, then within each slice."""
        old = self.model.grid_size
        if old == self.grid:
            return codes[:, top * self.plane : bottom * self.plane]
        wide = codes[0].to(torch.promote_types(codes.dtype, torch.float32))
        with torch.autocast(codes.device.type, enabled=False):
            slab = resize_matrix(old[0], self.grid[0], "bilinear", wide.device, wide.dtype)[top:bottom] @ wide.reshape(
                old[0], -1
            )
            slab = slab.view(bottom - top, *old[1:], -1).permute(0, 3, 1, 2)  # (n, C, h, w)
            slab = F.interpolate(slab, size=self.grid[1:], mode="bilinear")
        return slab.permute(0, 2, 3, 1).reshape(1, -1, codes.shape[2]).to(codes.dtype)

    def _number(self, slab: tuple[int, int]) -> int:
        top, bottom = slab
        return (bottom - top) * self.plane if self.mask is None else int(self.mask[top:bottom].sum())


def _halo(tokenizer: nn.Module) -> int:
    """Count the token slices above or below that a token's receptive field reaches into."""
    if not isinstance(tokenizer, ConvStem3d):
        return 0
    voxels, stride = 0, 1
    for layer in tokenizer.stem:
        if isinstance(layer, nn.Conv3d):
            voxels, stride = voxels + stride, stride * layer.stride[0]
        elif isinstance(layer, nn.MaxPool3d):
            stride *= layer.kernel_size[0]  # type: ignore[index]
    return -(-voxels // stride)
