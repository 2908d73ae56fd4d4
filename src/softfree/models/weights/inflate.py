"""Weights of a 2D vision transformer in a 3D one (inflation: Carreira and Zisserman 2017, arXiv:1705.07750).

A volume that is constant along its depth then gives the image's tokens, once in each layer of the grid:

- The patch projection is repeated along the depth and divided by it. The convolutions of a stem go to the middle slice
  of theirs, where padding at the ends of the depth cannot disturb them.
- Learned positions are repeated for each layer of the grid. A model with pos="mm" has fixed codes instead, and one
  with pos="none" has none: the image's positions are dropped, and reported as such.

The logits are the image's as well where no layer depends on how often a token occurs: softmax, SeqNorm and Galerkin
without a class token (or with a grid of one layer). A class token is one among d times as many tokens, and SimA's
result is 1 / d as large.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor

from softfree.models.pos_embed import resize_positions, resize_volume_positions
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree.models.weights.files import find_file, read_file
from softfree.models.weights.load import (
    WeightReport,
    check_conversion,
    check_vit,
    fit_channels,
    fold_layer_scale,
    is_of_volumes,
    load_fitted,
    place_of,
)
from softfree.models.weights.names import to_timm
from softfree.models.weights.source_grid import codes_in_front, find_layout, stated_grid

Weights = dict[str, Tensor]


def load_inflated(
    model: VolumeTransformer, source: str | Path, *, grid: tuple[int, ...] | None = None, progress: bool = False
) -> WeightReport:
    """Load the weights of a 2D vision transformer into a 3D model, as far as they fit; 3D weights stay as they are.

    Args:
        model: The model; changed in place, and only if the source can be used.
        source: As for :func:`~softfree.models.load_pretrained`.
        grid: As for :func:`~softfree.models.load_pretrained`; of three sides for positions of a volume.
        progress: Show the progress of a download.

    Returns:
        What became of each weight; "resized" are those that were inflated.

    Raises:
        UserError: A source that is not found, cannot be read safely, or is no vision transformer of this width.
    """
    path = find_file(source, config=True, progress=progress)
    weights = to_timm(read_file(path))
    like = cast(VisionTransformer, model)  # what the two have in common is all that is looked at
    check_conversion(source, like)
    check_vit(weights, like, str(source))
    places = {name: place_of(name, weights, like) for name in weights}
    whole = {places[name]: tensor for name, tensor in weights.items()}
    fitted = fold_layer_scale(whole, like)
    assumed: tuple[str, ...] = ()
    if "pos_embed" in fitted and model.pos_embed is not None:
        fitted["pos_embed"], assumed = _fit_positions(fitted, model, path, grid)
    return load_fitted(like, inflate(fitted, model), whole, places, assumed)


def inflate(weights: Weights, model: VolumeTransformer) -> Weights:
    """Inflate the tokenizer of a 2D model; all other weights are handed on.

    Args:
        weights: Tensors by timm's names.
        model: What they are for: its channels and patch size count.

    Returns:
        Tensors by the same names.
    """
    return {name: _inflated(name, tensor, model) for name, tensor in weights.items()}


def _inflated(name: str, tensor: Tensor, model: VolumeTransformer) -> Tensor:
    if not name.startswith("patch_embed.") or tensor.ndim != 4:
        return tensor
    if name == "patch_embed.proj.weight":
        return _repeat_patches(fit_channels(tensor, model.in_chans), model.patch_size)
    first = name == "patch_embed.stem.0.weight"
    kernel = fit_channels(tensor, model.in_chans) if first else tensor
    return torch.stack([torch.zeros_like(kernel), kernel, torch.zeros_like(kernel)], dim=2)


def _repeat_patches(kernel: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(C, I, p, p) to (C, I, pd, ph, pw), resized to ph x pw if need be."""
    depth, *sides = patch
    if list(kernel.shape[-2:]) != sides:
        kernel = resample_patch_embed(kernel, sides)
    return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth


def _fit_positions(
    weights: Weights, model: VolumeTransformer, path: Path, given: tuple[int, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Bring positions of an image or of a volume to (1, P + d h w, C); say what was assumed of them."""
    positions, (depth, *sides), wanted = weights["pos_embed"], model.grid_size, model.num_prefix_tokens
    if positions.shape[-1] != model.embed_dim:
        return positions, ()
    volume = is_of_volumes(weights)
    own, dims = (model.grid_size, 3) if volume else (tuple(sides), 2)
    stated = stated_grid(path, weights.get("patch_embed.proj.weight"))
    layout = find_layout(weights, own, given=given, stated=stated, dims=dims)
    assumed = (layout.assumed,) if layout.assumed else ()
    if layout.grid == model.grid_size and layout.prefix == wanted:
        return positions, assumed
    if not volume and (1, *layout.grid, layout.prefix) == (depth, *sides, wanted):
        return positions, assumed  # a volume of one layer
    flat = positions.flatten(1, -2)
    front, flat = codes_in_front(weights, flat, layout.prefix, wanted), flat[:, layout.prefix :]
    if volume:
        return torch.cat([front, resize_volume_positions(flat, layout.grid, model.grid_size, 0)], dim=1), assumed
    (rows, columns), (height, width) = layout.grid, sides
    image = resize_positions(flat, (rows, columns), (height, width), num_prefix_tokens=0)
    return torch.cat([front, image.repeat(1, depth, 1)], dim=1), assumed
