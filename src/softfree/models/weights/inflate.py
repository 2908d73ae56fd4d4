"""Inflation of 2D vision transformer weights to 3D (Carreira and Zisserman 2017, arXiv:1705.07750).

A volume that is constant along its depth then gives the image's tokens in each layer of the grid:

- The patch projection is repeated along the depth and divided by it. The convolutions of a stem go to the middle slice
  of the 3D kernels, where padding at the ends of the depth cannot affect them.
- Learned positions are repeated for each layer of the grid. A model with pos="mm" has fixed codes instead, and one
  with pos="none" has none: the image's positions are dropped and reported.

The logits also equal the image's if no layer depends on how often a token occurs: softmax, SeqNorm and Galerkin without
a class token (or with a grid of one layer). With a class token, there are d times as many other tokens, and SimA's
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
    is_volume_model,
    load_fitted,
    target_name,
)
from softfree.models.weights.names import to_timm
from softfree.models.weights.source_grid import config_grid_of, find_layout, prefix_codes

Weights = dict[str, Tensor]


def load_inflated(
    model: VolumeTransformer, source: str | Path, *, grid: tuple[int, ...] | None = None, progress: bool = False
) -> WeightReport:
    """Load the weights of a 2D vision transformer into a 3D model, as far as they fit; 3D weights are not inflated.

    Args:
        model: The model; changed in place, only if the source is usable.
        source: As for :func:`~softfree.models.load_pretrained`.
        grid: As for :func:`~softfree.models.load_pretrained`; three sides for positions of a volume.
        progress: Show the progress of a download.

    Returns:
        A report on each weight; inflated ones count as "resized".

    Raises:
        UserError: A source that is not found, unsafe, or not a vision transformer of this width.
    """
    path = find_file(source, config=True, progress=progress)
    weights = to_timm(read_file(path))
    vit = cast(VisionTransformer, model)  # only what both classes share is used
    check_conversion(source, vit)
    check_vit(weights, vit, str(source))
    targets = {name: target_name(name, weights, vit) for name in weights}
    original = {targets[name]: tensor for name, tensor in weights.items()}
    fitted = fold_layer_scale(original, vit)
    assumed: tuple[str, ...] = ()
    if "pos_embed" in fitted and model.pos_embed is not None:
        fitted["pos_embed"], assumed = _fit_positions(fitted, model, path, grid)
    return load_fitted(vit, inflate(fitted, model), original, targets, assumed)


def inflate(weights: Weights, model: VolumeTransformer) -> Weights:
    """Inflate the tokenizer of a 2D model; other weights are returned unchanged.

    Args:
        weights: Tensors by timm's names.
        model: The 3D model, for its channels and patch size.

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
    """Repeat (C, I, p, p) to (C, I, pd, ph, pw), resized to ph x pw if necessary."""
    depth, *sides = patch
    if list(kernel.shape[-2:]) != sides:
        kernel = resample_patch_embed(kernel, sides)
    return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth


def _fit_positions(
    weights: Weights, model: VolumeTransformer, path: Path, user_grid: tuple[int, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Fit positions of an image or a volume to (1, P + d h w, C); return them and the assumptions made."""
    positions, (depth, *sides), num_prefix = weights["pos_embed"], model.grid_size, model.num_prefix_tokens
    if positions.shape[-1] != model.embed_dim:
        return positions, ()
    volume = is_volume_model(weights)
    model_grid, dims = (model.grid_size, 3) if volume else (tuple(sides), 2)
    config_grid = config_grid_of(path, weights.get("patch_embed.proj.weight"))
    layout = find_layout(weights, model_grid, user_grid=user_grid, config_grid=config_grid, dims=dims)
    assumed = (layout.assumed,) if layout.assumed else ()
    if layout.grid == model.grid_size and layout.prefix == num_prefix:
        return positions, assumed
    if not volume and (1, *layout.grid, layout.prefix) == (depth, *sides, num_prefix):
        return positions, assumed  # a volume of one layer
    flat = positions.flatten(1, -2)
    front, flat = prefix_codes(weights, flat, layout.prefix, num_prefix), flat[:, layout.prefix :]
    if volume:
        return torch.cat([front, resize_volume_positions(flat, layout.grid, model.grid_size, 0)], dim=1), assumed
    (rows, columns), (height, width) = layout.grid, sides
    image = resize_positions(flat, (rows, columns), (height, width), num_prefix_tokens=0)
    return torch.cat([front, image.repeat(1, depth, 1)], dim=1), assumed
