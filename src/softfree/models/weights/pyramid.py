"""Conversion of SOFT pyramid weights from the official repository's names to :class:`SoftPyramid`.

Names there (models/softmax_free_vision_transformer.py and softmax_free_transformer.py), s from 1 to 4:

    patch_embed{s}.proj.{0,3,6} and {1,4,7}   convolutions and batch norms; only 0 and 1 except in the first
    pos_embed{s}, cls_token, norm, head
    block{s}.{i}.att.mha.{W_q, W_v, ff}       s < 4: queries (which are also the keys), values, output
    block{s}.{i}.att.mha.attn.{Qlandmark_op, Qnorm_act.0, conv}     sampling, its norm, convolution on V
    block{s}.{i}.att.{norm1, ff1, ff2, norm2}
    block4.{i}.{norm1, attn.q, attn.kv, attn.proj, norm2, mlp.fc1, mlp.fc2}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import cast

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from softfree.models.pyramid import SoftPyramid
from softfree.models.pyramid_parts import Stage, resize_stage_positions
from softfree.models.weights.source_grid import Layout, find_layout
from softfree_runtime.core.errors import UserError

Weights = dict[str, Tensor]

# Applied after the stage's number has become "stages.{s - 1}.".
RULES = (
    (r"^module\.", ""),
    (r"^(stages\.\d\.)embed\.proj\.(\d)\.", lambda m: f"{m[1]}embed.{int(m[2]) // 3}.{('conv', 'bn')[int(m[2]) % 3]}."),
    (r"\.att\.mha\.attn\.Qlandmark_op\.", ".attn.sample.conv."),
    (r"\.att\.mha\.attn\.Qnorm_act\.0\.", ".attn.sample.norm."),
    (r"\.att\.mha\.attn\.conv\.", ".attn.local."),
    (r"\.att\.mha\.ff\.", ".attn.proj."),
    (r"\.att\.ff([12])\.", r".mlp.fc\1."),
    (r"\.att\.norm([12])\.", r".norm\1."),
    (r"^cls_token$", "stages.3.cls_token"),
)
STAGE = re.compile(r"^(?:module\.)?(patch_embed|pos_embed|block)([1-4])(?=\.|$)")
KIND = {"patch_embed": "embed", "pos_embed": "pos_embed", "block": "blocks"}
# Projections that are concatenated here, in the order of their rows.
PARTS = {"att.mha.W_q": 0, "att.mha.W_v": 1, "attn.q": 0, "attn.kv": 1}
PART = re.compile(rf"^(.*\.)({'|'.join(map(re.escape, PARTS))})\.(weight|bias)$")


def to_pyramid(weights: Weights) -> Weights:
    """Rename official weights; names of :class:`SoftPyramid` and unknown names are kept.

    Args:
        weights: Tensors by name.

    Returns:
        The same tensors by the names of :class:`SoftPyramid`, with projections concatenated to ``qkv``: (2C, C) of Q
        and V in SOFT blocks, (3C, C) of Q, K and V in softmax blocks.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    renamed = {}
    for name, tensor in weights.items():
        name = STAGE.sub(lambda m: f"stages.{int(m[2]) - 1}.{KIND[m[1]]}", name)
        if match := PART.match(name):
            parts.setdefault(f"{match[1]}attn.qkv.{match[3]}", {})[PARTS[match[2]]] = tensor
            continue
        for pattern, own_name in RULES:
            name = re.sub(pattern, own_name, name)
        renamed[name] = tensor
    return renamed | {name: torch.cat([rows[k] for k in sorted(rows)]) for name, rows in parts.items()}


def fit_pyramid(weights: Weights, model: SoftPyramid, source: str) -> tuple[Weights, tuple[str, ...]]:
    """Adapt renamed weights to the model's grid and channels; return them and the assumptions made.

    Args:
        weights: From :func:`to_pyramid`.
        model: The pyramid they are for.
        source: Their origin, for messages.

    Raises:
        UserError: Not a pyramid, or one with other widths or depths.
    """
    _check(weights, model, source)
    fitted, assumed = dict(weights), dict[str, None]()
    for number, stage in enumerate(cast(Iterable[Stage], model.stages)):
        name = f"stages.{number}.pos_embed"
        if name in fitted:
            layout = find_layout(fitted, stage.grid_size, name=name)
            fitted[name] = _fit_positions(fitted[name], layout, stage.grid_size, stage.num_prefix_tokens)
            assumed |= {f"stage {number + 1}: {layout.assumed}": None} if layout.assumed else {}
    first = "stages.0.embed.0.conv.weight"
    if fitted[first].shape[1] == 3 != model.in_chans:
        fitted[first] = adapt_input_conv(model.in_chans, fitted[first])
    if model.last == "soft" and "stages.3.cls_token" in fitted:
        # Many shapes of softmax blocks fit, but would compute something else. Empty tensors never fit, so that the
        # report lists them as dropped.
        fitted |= {name: t.new_empty(0) for name, t in fitted.items() if name.startswith("stages.3.blocks.")}
    return fitted, tuple(assumed)


def _check(weights: Weights, model: SoftPyramid, source: str) -> None:
    expected = ("stages.0.embed.0.conv.weight", "stages.3.embed.0.conv.weight", "stages.0.blocks.0.attn.qkv.weight")
    missing = [name for name in expected if name not in weights]
    if missing:
        raise UserError(
            f"{source} is not a SOFT pyramid: expected {', '.join(missing)} or its official name among its weights, "
            f"got {', '.join(list(weights)[:3]) or 'none'}."
        )
    blocks = {m[0] for name in weights if (m := re.match(r"stages\.(\d)\.blocks\.\d+\.", name))}
    counts = Counter(int(name.split(".")[1]) for name in blocks)
    depths = tuple(counts[number] for number in range(4))
    ends = [[t for n, t in weights.items() if re.match(rf"stages\.{s}\.embed\.\d\.conv\.weight", n)] for s in range(4)]
    dims = tuple(end[-1].shape[0] for end in ends if end)
    for option, actual, own in (("depths", depths, model.depths), ("embed_dims", dims, model.embed_dims)):
        if actual != own:
            raise UserError(
                f"{source} has {option} {actual}, the model {own}: choose another model, or set "
                f"{option}={list(actual)} among its options."
            )


def _fit_positions(positions: Tensor, layout: Layout, grid: tuple[int, int], prefix: int) -> Tensor:
    """Adapt positions (1, P' + n, C) to ``grid`` with ``prefix`` class tokens before it."""
    if layout.grid == grid and layout.prefix == prefix:
        return positions
    rows, columns = layout.grid
    image = resize_stage_positions(positions[:, layout.prefix :], (rows, columns), grid, 0)
    front = positions[:, : layout.prefix] if layout.prefix else positions.new_zeros(1, 1, positions.shape[2])
    return torch.cat([front[:, :prefix], image], dim=1)
