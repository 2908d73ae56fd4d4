"""From a volume to tokens: a patch projection or a small convolutional stem, with patches of three sides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.grid import ceil_div
from softfree.models.patch_embed import run_layers
from softfree_runtime.core.errors import UserError

Grid3d = tuple[int, int, int]


class PatchEmbed3d(nn.Module):
    """Patches of pd x ph x pw voxels, each projected to a token; timm's name: ``proj``.

    Args:
        patch_size: Sides of a patch in voxels: slices, rows, columns.
        in_chans: Channels of the projection; volumes may have another number, see :func:`fit_volume`.
        embed_dim: Width C of a token.
    """

    def __init__(self, patch_size: Grid3d = (4, 8, 8), in_chans: int = 1, embed_dim: int = 384) -> None:
        super().__init__()
        self.patch_size, self.in_chans = patch_size, in_chans
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Grid3d]:
        """Tokenize volumes.

        Args:
            x: (B, any channels, D, H, W).
            mask: True for real tokens (B, N), or None; not used, since patches do not overlap.

        Returns:
            Tokens (B, N, C) in raster order, and the grid (d, h, w) with N = d h w.
        """
        x = fit_volume(x, self.in_chans, self.patch_size)
        for axis, side in zip((2, 4, 6), self.patch_size, strict=True):
            x = x.unflatten(axis, (x.shape[axis] // side, side))  # finally (B, channels, d, pd, h, ph, w, pw)
        grid = (x.shape[2], x.shape[4], x.shape[6])
        # One matrix product, as for images.
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)  # (B, d h w, channels pd ph pw)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias), grid


class ConvStem3d(nn.Module):
    """3 x 3 x 3 convolutions down to the patch size: :class:`~softfree.models.patch_embed.ConvStem` in 3D.

    Each has stride 2 on the axes whose patch side is not reached yet, and stride 1 on the others. Widths double
    toward C. There is no norm, for the reasons given there.

    Args:
        patch_size: Sides of the box that a token represents: powers of two, at least one of them above 1.
        in_chans: Channels of the first convolution; volumes may have another number, see :func:`fit_volume`.
        embed_dim: Width C of a token.

    Raises:
        UserError: A side that is not a power of two, or nothing to downsample.
    """

    name = "conv"

    def __init__(self, patch_size: Grid3d = (4, 8, 8), in_chans: int = 1, embed_dim: int = 384) -> None:
        super().__init__()
        if any(side < 1 or side & (side - 1) for side in patch_size) or max(patch_size) < 2:
            raise UserError(
                f"Got stem='{self.name}' with patch_size={patch_size}: expected powers of two, such as (4, 8, 8), "
                "not all 1."
            )
        self.patch_size, self.in_chans = patch_size, in_chans
        steps = max(patch_size).bit_length() - 1
        widths = [in_chans, *(max(8, embed_dim >> step) for step in reversed(range(1, steps))), embed_dim]
        strides = [tuple(2 if side >> (step + 1) else 1 for side in patch_size) for step in range(steps)]
        self.stem = nn.Sequential(*self._layers(widths, strides))
        for layer in self.stem:
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0)  # type: ignore[arg-type]

    def _layers(self, widths: Sequence[int], strides: Sequence[tuple[int, ...]]) -> list[nn.Module]:
        """Create the layers from ``widths[0]`` channels of voxels to ``widths[-1]`` of tokens."""
        layers: list[nn.Module] = []
        for (inner, outer), stride in zip(pairwise(widths), strides, strict=True):
            layers += [nn.Conv3d(inner, outer, 3, stride=stride, padding=1), nn.GELU()]  # type: ignore[arg-type]
        return layers[:-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Grid3d]:
        """Tokenize volumes.

        Args:
            x: (B, any channels, D, H, W).
            mask: True for real tokens (B, N), or None. Voxels of other tokens are set to zero first, because the
                convolutions overlap.

        Returns:
            Tokens (B, N, C) in raster order, and the grid (d, h, w) with N = d h w.
        """
        x = fit_volume(x, self.in_chans, self.patch_size)
        if mask is not None:
            grid = [side // patch for side, patch in zip(x.shape[2:], self.patch_size, strict=True)]
            voxels = mask.view(-1, 1, *grid)
            for axis, patch in enumerate(self.patch_size, start=2):
                voxels = voxels.repeat_interleave(patch, dim=axis)
            x = x.masked_fill(~voxels, 0)
        x = run_layers(self.stem, x)  # (B, C, d, h, w)
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3], x.shape[4])


class PoolStem3d(ConvStem3d):
    """:class:`~softfree.models.patch_embed.PoolStem` in 3D: max pooling instead of strides, except in the first layer.

    Args:
        patch_size: Sides of the box that a token represents: powers of two, at least one of them above 2.
        in_chans: Channels of the first convolution; volumes may have another number, see :func:`fit_volume`.
        embed_dim: Width C of a token.

    Raises:
        UserError: A side that is not a power of two, or nothing to pool.
    """

    name = "pool"

    def _layers(self, widths: Sequence[int], strides: Sequence[tuple[int, ...]]) -> list[nn.Module]:
        if len(strides) < 2:
            raise UserError("Got stem='pool' with a patch of 2 voxels: expected 4 or more along an axis.")
        layers: list[nn.Module] = [nn.Conv3d(widths[0], widths[1], 3, stride=strides[0], padding=1), nn.GELU()]  # type: ignore[arg-type]
        for (inner, outer), stride in zip(pairwise(widths[1:]), strides[1:], strict=True):
            layers += [nn.Conv3d(inner, outer, 3, padding=1), nn.MaxPool3d(stride), nn.GELU()]
        return layers[:-1]  # no activation on the tokens


STEMS_3D: dict[str, type[PatchEmbed3d] | type[ConvStem3d]] = {
    "patch": PatchEmbed3d,
    "conv": ConvStem3d,
    "pool": PoolStem3d,
}


def fit_volume(x: Tensor, in_chans: int, patch_size: Grid3d) -> Tensor:
    """Match volumes to a tokenizer's channels, and pad them to whole patches.

    For another channel count, the mean of the channels is repeated. Zeros are added at the end of each axis, so that
    existing voxels keep their positions.

    Args:
        x: (B, any channels, D, H, W).
        in_chans: Channels that the tokenizer expects.
        patch_size: Sides of a patch in voxels.

    Returns:
        (B, in_chans, D', H', W'), whose sides are the next multiples of the patch's.

    Raises:
        UserError: Not five axes, or an empty one.
    """
    if x.ndim != 5 or 0 in x.shape[1:]:
        raise UserError(f"Got volumes of shape {tuple(x.shape)}: expected (batch, channels, depth, height, width).")
    if x.shape[1] != in_chans:
        x = x.mean(dim=1, keepdim=True).expand(-1, in_chans, -1, -1, -1)
    padding = [ceil_div(side, patch) * patch - side for side, patch in zip(x.shape[2:], patch_size, strict=True)]
    # A compiled graph always pads; otherwise it would be specialized to sizes that are multiples.
    if torch.compiler.is_compiling() or any(padding):
        x = F.pad(x, (0, padding[2], 0, padding[1], 0, padding[0]))
    return x
