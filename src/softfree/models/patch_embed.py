"""From an image to tokens: a patch projection or a small convolutional stem, for any size and channel count."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import transformed
from softfree.attention.grid import ceil_div
from softfree_runtime.core.errors import UserError

Grid = tuple[int, int]


class PatchEmbed(nn.Module):
    """Patches of p x p pixels, each projected to a token (Dosovitskiy et al. 2021); timm's name: ``proj``.

    Args:
        patch_size: Side p of a patch in pixels.
        in_chans: Channels of the projection; images may have another number, see :func:`fit_image`.
        embed_dim: Width C of a token.
    """

    halo = (0, 0)

    def __init__(self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 384) -> None:
        super().__init__()
        self.patch_size, self.in_chans = patch_size, in_chans
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Grid]:
        """Tokenize images.

        Args:
            x: (B, any channels, H, W).
            mask: True for real tokens (B, N), or None; not used, since patches do not overlap.

        Returns:
            Tokens (B, N, C) in raster order, and the grid (h, w) with N = h w.
        """
        x = fit_image(x, self.in_chans, self.patch_size)
        p, weight = self.patch_size, self.proj.weight
        grid = (x.shape[2] // p, x.shape[3] // p)
        # One matrix product: far faster than torch's convolution on large images, and with the memory layout that the
        # following layers need.
        x = x.unflatten(2, (grid[0], p)).unflatten(4, (grid[1], p))  # (B, channels, h, p, w, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, h w, channels p p)
        return F.linear(x, weight.flatten(1), self.proj.bias), grid


class ConvStem(nn.Module):
    """3 x 3 convolutions of stride 2 down to the patch size, after Xiao et al. 2021, "Early convolutions".

    There is no norm between them: one over the channels of a pixel would make faint noise as loud as a small bright
    finding, and one over the batch or the image would mix in other images or distant tokens. Weights have He
    initialization instead. Widths double toward C.

    Args:
        patch_size: Side of the square that a token represents: a power of two, at least 2.
        in_chans: Channels of the first convolution; images may have another number, see :func:`fit_image`.
        embed_dim: Width C of a token.

    Attributes:
        halo: Rows of tokens above and below a token that its receptive field reaches into.

    Raises:
        UserError: A patch size that is not a power of two.
    """

    halo = (1, 0)
    name = "conv"

    def __init__(self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 384) -> None:
        super().__init__()
        steps = int(math.log2(patch_size))
        if steps < 1 or 2**steps != patch_size:
            raise UserError(f"Got stem='{self.name}' with patch_size={patch_size}: expected 2, 4, 8, 16 or 32.")
        self.patch_size, self.in_chans = patch_size, in_chans
        widths = [in_chans, *(max(8, embed_dim >> step) for step in reversed(range(1, steps))), embed_dim]
        self.stem = nn.Sequential(*self._layers(widths))
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0)  # type: ignore[arg-type]

    def _layers(self, widths: Sequence[int]) -> list[nn.Module]:
        """Create the layers from ``widths[0]`` channels of pixels to ``widths[-1]`` of tokens."""
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GELU()]
        return layers[:-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Grid]:
        """Tokenize images.

        Args:
            x: (B, any channels, H, W).
            mask: True for real tokens (B, N), or None. Pixels of other tokens are set to zero first, because the
                convolutions overlap.

        Returns:
            Tokens (B, N, C) in raster order, and the grid (h, w) with N = h w.
        """
        x = fit_image(x, self.in_chans, self.patch_size)
        if mask is not None:
            grid = [side // self.patch_size for side in x.shape[-2:]]
            pixels = mask.view(-1, 1, *grid)
            for axis in (2, 3):
                pixels = pixels.repeat_interleave(self.patch_size, dim=axis)
            x = x.masked_fill(~pixels, 0)
        return to_tokens(run_layers(self.stem, x))


class PoolStem(ConvStem):
    """3 x 3 convolutions, each followed by 2 x 2 max pooling except the first, which has stride 2.

    After the tokenizer of Hassani et al. 2021, "Escaping the big data paradigm with compact transformers" (CCT,
    arXiv:2104.05704). A strided convolution averages over its window and hardly distinguishes a few bright pixels from
    the same brightness spread over many; a maximum does, and carries a finding of two pixels up to its token. Windows
    do not overlap, so that a token sees no further than its neighbors, as with :class:`ConvStem`. The maximum is taken
    before GELU, not after it as in CCT, so that GELU is computed for a quarter of the pixels: on a CPU this saves a
    quarter of the stem's time in a training step.

    Args:
        patch_size: Side of the square that a token represents: a power of two, at least 4.
        in_chans: Channels of the first convolution; images may have another number, see :func:`fit_image`.
        embed_dim: Width C of a token.

    Raises:
        UserError: A patch size that is not a power of two, or 2, which leaves nothing to pool.
    """

    halo = (1, 1)
    name = "pool"

    def _layers(self, widths: Sequence[int]) -> list[nn.Module]:
        if len(widths) < 3:
            raise UserError("Got stem='pool' with patch_size=2: expected 4, 8, 16 or 32.")
        layers: list[nn.Module] = [nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1), nn.GELU()]
        for inner, outer in pairwise(widths[1:]):
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.MaxPool2d(2), nn.GELU()]
        return layers[:-1]  # no activation on the tokens


STEMS: dict[str, type[PatchEmbed] | type[ConvStem]] = {"patch": PatchEmbed, "conv": ConvStem, "pool": PoolStem}


def stem_of(names: Collection[str]) -> str | None:
    """Infer the stem from the names of weights; None if they have no stem or fit two."""
    if "patch_embed.proj.weight" in names:
        return "patch"
    convolutions = {name.split(".")[2] for name in names if name.startswith("patch_embed.stem.")}
    if convolutions in (set(), {"0", "2"}):  # with two convolutions, both stems have the same names
        return None
    return "pool" if "5" in convolutions else "conv"


def fit_image(x: Tensor, in_chans: int, patch_size: int) -> Tensor:
    """Match images to a tokenizer's channels, and pad them to whole patches.

    For another channel count, the mean of the channels is repeated: gray in a color model equals gray copied to each
    channel. The bottom and the right are padded with zeros.

    Args:
        x: (B, any channels, H, W).
        in_chans: Channels that the tokenizer expects.
        patch_size: Side p of a patch in pixels.

    Returns:
        (B, in_chans, H', W') with H' and W' the next multiples of p.

    Raises:
        UserError: Not four axes, or an empty one.
    """
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise UserError(f"Got images of shape {tuple(x.shape)}: expected (batch, channels, height, width).")
    if x.shape[1] != in_chans:
        x = x.mean(dim=1, keepdim=True).expand(-1, in_chans, -1, -1)
    bottom, right = (ceil_div(side, patch_size) * patch_size - side for side in x.shape[2:])
    # A compiled graph always pads; otherwise it would be specialized to sizes that are multiples.
    if torch.compiler.is_compiling() or bottom or right:
        x = F.pad(x, (0, right, 0, bottom))
    return x


def run_layers(stem: nn.Sequential, x: Tensor) -> Tensor:
    """Run a stem's convolutions in channels-last format, so that the result has the memory layout of tokens."""
    first, *rest = stem
    x = channels_last(first(channels_last(x)))  # torch does not always keep the layout of a single channel
    for layer in rest:
        x = layer(x)
    return x


def channels_last(x: Tensor) -> Tensor:
    """Convert (B, C, sides...) to channels-last memory format, except under torch.func, which does not support it.

    A single channel has both layouts: torch decides by its strides, and would compute and copy in the slower one (half
    of the time of a stem in bfloat16) if they were channels-first.
    """
    if transformed():
        return x
    if x.shape[1] == 1 and not torch.compiler.is_exporting():
        return x.squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def to_tokens(x: Tensor) -> tuple[Tensor, Grid]:
    """Flatten (B, C, h, w) to tokens (B, h w, C); return them and the grid (h, w)."""
    return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])
