"""Position codes of places in millimeters, so that a place has one code however finely it was sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import widen
from softfree.attention.grid import linear_weights

Waves = tuple[float, float]

# In a volume. Shortest: the shortest that tokens 2 mm apart, about the closest there are, can still sample. Longest:
# beyond any field of view, so that no two places of a body have the same code.
IN_BODY: Waves = (4.0, 1000.0)


def sincos_codes(places: Tensor, dim: int, waves: Sequence[Waves]) -> Tensor:
    """Compute sine and cosine of ``2 pi place / wavelength`` for several wavelengths and each axis.

    Each of the A axes has C // 2A wavelengths in geometric progression, its sines before its cosines. What C leaves
    over stays zero.

    Args:
        places: (..., A), in float32 or better: bfloat16 has no three digits.
        dim: Width C.
        waves: Shortest and longest wavelength of each axis, in the unit of ``places``.

    Returns:
        (..., C) of the type of ``places``.
    """
    pairs = dim // (2 * len(waves))
    codes = []
    for axis, (shortest, longest) in enumerate(waves):
        progression = torch.linspace(0, 1, pairs, device=places.device, dtype=places.dtype)
        lengths = shortest * (longest / shortest) ** progression
        angles = 2 * math.pi * places[..., axis : axis + 1] / lengths
        codes += [angles.sin(), angles.cos()]
    return F.pad(torch.cat(codes, dim=-1), (0, dim - 2 * pairs * len(waves)))


def volume_codes(grid: Sequence[int], step: Sequence[float], dim: int, like: Tensor) -> Tensor:
    """Compute the codes of the tokens of a volume from their centers in millimeters.

    Millimeters count from the outer corner of the first voxel, so that what is added at the end of an axis moves no
    token, and the same anatomy in the same box has the same codes at any spacing.

    Args:
        grid: Tokens (d, h, w).
        step: Sides of a patch in millimeters: voxels times spacing.
        dim: Width C.
        like: A tensor of the device and type that are wanted.

    Returns:
        (1, d h w, C).
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    axes = [
        (torch.arange(side, device=like.device, dtype=wide) + 0.5) * length
        for side, length in zip(grid, step, strict=True)
    ]
    pairs = dim // (2 * len(axes))
    # Axis by axis: d + h + w places rather than d h w.
    codes = [sincos_codes(at.unsqueeze(1), 2 * pairs, [IN_BODY]).to(like.dtype) for at in axes]
    slices, rows, columns = codes
    shape = (*grid, 2 * pairs)
    spread = [slices[:, None, None], rows[None, :, None], columns[None, None, :]]
    whole = torch.cat([code.expand(shape) for code in spread], dim=-1)  # (d, h, w, 6 pairs)
    return F.pad(whole.flatten(0, 2), (0, dim - whole.shape[-1])).unsqueeze(0)


def resize_volume_positions(
    pos_embed: Tensor, old: Sequence[int], new: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    """Resize learned codes, trilinear, from one token grid to another; prefix tokens keep their codes.

    Args:
        pos_embed: (1, P + d h w, C) with P prefix tokens.
        old: The grid (d, h, w) of ``pos_embed``.
        new: The grid (d', h', w') that is wanted.
        num_prefix_tokens: P.

    Returns:
        (1, P + d' h' w', C).
    """
    if tuple(old) == tuple(new) and not torch.compiler.is_compiling():
        return pos_embed
    front, volume = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    wide = torch.promote_types(volume.dtype, torch.float32)  # a CPU has no trilinear resize of half precision
    if torch.compiler.is_compiling():
        # Torch's own has factors in a graph of any size that do not compile (torch 2.15).
        (volume,), exact = widen(volume.unflatten(1, tuple(old)))
        with exact:
            for sides in zip(old, new, strict=True):
                volume = torch.tensordot(volume, linear_weights(*sides, volume), dims=([1], [1]))  # to the last axis
        return torch.cat([front, volume.flatten(2).mT.to(pos_embed.dtype)], dim=1)
    volume = volume.mT.unflatten(2, tuple(old))
    volume = F.interpolate(volume.to(wide), size=tuple(new), mode="trilinear").to(pos_embed.dtype)
    return torch.cat([front, volume.flatten(2).mT], dim=1)
