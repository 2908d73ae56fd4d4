"""One rank's shard of a sample: from its tiles or its band of pixels to tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from softfree.models.bag import COORDINATES, BagTransformer
from softfree.models.classifier import check_grid_mask
from softfree.models.vit import VisionTransformer
from softfree.streaming.collectives import exchange_shapes, group_of
from softfree.streaming.token_sources import BandPositions
from softfree_runtime.core.errors import UserError


class Shard(NamedTuple):
    """Tokens of one rank, at least one.

    A rank without tokens gets padding, and every rank has a class token, which is padding on all but the first. Thus
    all ranks run the same graph, every parameter has a gradient on each rank, and wrappers that reduce gradients in
    order of arrival see the same order everywhere.

    Attributes:
        tokens: (B, P + n, C), positions included.
        mask: True for real tokens (B, P + n), or None for all.
    """

    tokens: Tensor
    mask: Tensor | None


def shard_bag(model: BagTransformer, x: Tensor, group: dist.ProcessGroup) -> Shard:
    """Compute the tokens of this rank's tiles of each bag (B, n, F + 3); rows whose z is NaN are padding."""
    width = model.row_width
    fits = x.ndim == 3 and x.shape[2] == width
    reason = "" if fits else f"Got a shard {tuple(x.shape)} of bags: expected (batch, tiles of this rank, {width})."
    exchange_shapes(reason, [*(x.shape[:2] if fits else (0, 0)), 0, 0], group, x.device)
    if not x.shape[1]:
        x = F.pad(x.new_full((len(x), 1, COORDINATES), torch.nan), (width - COORDINATES, 0))
    mask = ~x[..., -1].isnan()
    real = None if bool(mask.all()) else mask
    return _with_class_token(model, model.patch_embed(x, real), real, dist.get_rank(group))


def shard_image(model: VisionTransformer, x: Tensor, mask: Tensor | None, group: dist.ProcessGroup) -> Shard:
    """Compute the tokens of this rank's band of rows (B, channels, H_r, W); the first rank has the top."""
    rank, patch = dist.get_rank(group), model.patch_size
    shapes = exchange_shapes(_why_not_a_band(x, mask, patch), x.shape if x.ndim == 4 else (0,) * 4, group, x.device)
    _check_bands(shapes, patch)
    rows = [-(-height // patch) for _, _, height, _ in shapes]
    top, grid = sum(rows[:rank]), (sum(rows), -(-x.shape[3] // patch))
    if not rows[rank]:
        x, top = x.new_zeros(*x.shape[:2], patch, x.shape[3]), 0
        mask = torch.zeros(len(x), grid[1], dtype=torch.bool, device=x.device)
    tokens, local = model.patch_embed(x, mask)
    shard = _with_class_token(model, tokens, mask, rank)
    if model.pos_embed is None:
        return shard
    codes = BandPositions(model.pos_embed, model.grid_size, grid, model.num_prefix_tokens)
    return shard._replace(tokens=shard.tokens + torch.cat([codes.prefix, codes.band(top, top + local[0])], dim=1))


def split_rows(image: Tensor, patch: int, group: dist.ProcessGroup | DeviceMesh) -> Tensor:
    """Return this rank's band of whole images, a view: bands are whole token rows, as equal as possible.

    Args:
        image: (..., H, W).
        patch: Side of a patch in pixels.
        group: The ranks, from the top of the image to its bottom.

    Returns:
        (..., H_r, W); H_r is 0 on some ranks if there are fewer token rows than ranks.
    """
    group = group_of(group)
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    rows = -(-image.shape[-2] // patch)
    return image[..., rows * rank // ranks * patch : rows * (rank + 1) // ranks * patch, :]


def _with_class_token(
    model: BagTransformer | VisionTransformer, tokens: Tensor, mask: Tensor | None, rank: int
) -> Shard:
    tokens, mask = model.with_class_token(tokens, mask)
    if model.num_prefix_tokens and rank:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        mask[:, : model.num_prefix_tokens] = False
    return Shard(tokens, mask)


def _why_not_a_band(x: Tensor, mask: Tensor | None, patch: int) -> str:
    if x.ndim != 4 or 0 in (x.shape[0], x.shape[1], x.shape[3]):
        return f"Got a band of shape {tuple(x.shape)}: expected (batch, channels, rows of this rank, width)."
    try:
        if mask is not None:
            check_grid_mask(x, mask, (patch, patch), "a band of rows")
    except UserError as error:
        return str(error)
    return ""


def _check_bands(shapes: list[list[int]], patch: int) -> None:
    """Refuse bands that do not form one image."""
    heights = [height for _, _, height, _ in shapes]
    if len({(channels, width) for _, channels, _, width in shapes}) > 1 or not sum(heights):
        raise UserError(
            f"Got bands of {', '.join(str(tuple(shape)) for shape in shapes)}: expected rows of the same images "
            "(batch, channels, rows, width), equal except for the rows."
        )
    last = max(rank for rank, height in enumerate(heights) if height)
    if any(height % patch for height in heights[:last]):
        raise UserError(
            f"Got bands of {heights} pixel rows: expected multiples of the patch of {patch} on all ranks but the "
            "last, as split_rows returns them."
        )
