"""Which grid the learned positions in a file of weights lie on, and how many tokens stand in front of it.

Positions (1, P + n, C) tell their number alone: 64 of them lie on 8 x 8 places, or on 4 x 16. So models whose grid has
unequal sides save it beside their positions (:func:`remember_grid`); other files are asked what stands beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softfree_runtime.core.errors import UserError

Weights = Mapping[str, Tensor]
Grid = tuple[int, ...]

POS_GRID = "pos_grid"
# Tokens in front where the weights do not name them: none, a class token, and a distillation token, or four or eight
# registers, with a class token or without.
IN_FRONT = (0, 1, 2, 5, 9, 4, 8)


@dataclass(frozen=True)
class Layout:
    """Where positions lie.

    Attributes:
        grid: Sides of the grid.
        prefix: Tokens in front of it that have positions, too.
        assumed: Why that is no more than likely; empty if it is known.
    """

    grid: Grid
    prefix: int
    assumed: str = ""


def remember_grid(module: nn.Module, grid: Sequence[int]) -> None:
    """Save the grid of ``module``'s learned positions with its weights, unless all sides are equal.

    A number of places that is a square (or a cube) is taken for one where nothing else is said, so that models with
    such a grid keep timm's names alone.
    """
    if len(set(grid)) > 1:
        module.register_buffer(POS_GRID, torch.tensor(tuple(grid)))
        module.register_load_state_dict_pre_hook(_check_grid)


def _check_grid(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take weights that name no grid as the module's own, and refuse those of another."""
    own = tuple(module.grid_size)  # type: ignore[arg-type]
    given = state_dict.setdefault(prefix + POS_GRID, torch.tensor(own))
    if tuple(given.tolist()) != own:
        raise UserError(
            f"Got positions of a grid of {in_words(given.tolist())} for one of {in_words(own)}: load them with "
            "softfree.models.load_pretrained, which resizes them."
        )


def in_words(grid: Sequence[int]) -> str:
    """Write a grid as "4 x 16"."""
    return " x ".join(str(side) for side in grid)


def find_layout(
    weights: Weights,
    own: Grid,
    *,
    name: str = "pos_embed",
    given: Grid | None = None,
    stated: Grid | None = None,
    dims: int = 2,
) -> Layout:
    """Find where the positions ``weights[name]`` lie.

    In this order: as ``given``; as saved with them; as ``stated`` beside them, if that fits; on a square (or a cube);
    on the model's ``own`` grid, if it has as many places; on a square behind tokens that the weights do not name.

    Args:
        weights: By timm's names.
        own: Grid of the model that they are for.
        name: Of the positions, (1, P + n, C) or (1, h, w, C).
        given: Grid that the user names.
        stated: Grid that stands in a configuration beside the weights.
        dims: Sides of the grid of the weights.

    Raises:
        UserError: None of these fits.
    """
    positions = weights[name]
    if positions.ndim == 4:  # as in SAM and NaFlexViT
        return Layout(tuple(positions.shape[1:3]), 0)
    if positions.ndim != 3:
        raise UserError(f"Got positions of shape {tuple(positions.shape)} in the weights: expected (1, number, width).")
    length = positions.shape[1]
    named = _named_in_front(weights, name)
    saved = weights.get(name.removesuffix("pos_embed") + POS_GRID)
    if given is not None or saved is not None:
        known = given if given is not None else tuple(int(side) for side in saved.tolist())  # type: ignore[union-attr]
        if len(known) != dims:
            raise UserError(f"Got a grid of {in_words(known)} for the positions of the weights: expected {dims} sides.")
        return Layout(known, _prefix_of(length, known, named))
    if stated is not None and len(stated) == dims and length - math.prod(stated) in (*named, *IN_FRONT):
        return Layout(stated, length - math.prod(stated))
    for prefix in named:
        if grid := _equal_sides(length - prefix, dims):
            # A model of unequal sides may well be given weights of unequal sides.
            return Layout(grid, prefix, _assumed(grid) if len(set(own)) > 1 else "")
    for prefix in named:
        if len(own) == dims and length - prefix == math.prod(own):
            return Layout(own, prefix, _assumed(own))
    for prefix in IN_FRONT:
        if grid := _equal_sides(length - prefix, dims):
            return Layout(grid, prefix, f"{_assumed(grid)}, behind {prefix} tokens")
    raise UserError(
        f"The weights have {length} positions, which lie on no {'square' if dims == 2 else 'cube'}, and nothing beside "
        "them says on which grid: name its sides with --weights-grid '[ROWS, COLUMNS]' (in Python grid=(rows, columns))"
    )


def _assumed(grid: Grid) -> str:
    return f"positions lie on {in_words(grid)} (--weights-grid names another grid)"


def _named_in_front(weights: Weights, name: str) -> tuple[int, ...]:
    """Count the tokens in front that may have positions, by the tokens that the weights name; the likeliest first."""
    before = name.removesuffix("pos_embed")
    tokens = [weights.get(f"{before}{part}_token") for part in ("cls", "dist", "reg")]
    cls, dist, reg = (0 if token is None else token.shape[-2] for token in tokens)
    return tuple(dict.fromkeys([cls, cls + dist, cls + dist + reg, 0]))


def _prefix_of(length: int, grid: Grid, named: Sequence[int]) -> int:
    prefix = length - math.prod(grid)
    if min(grid) < 1 or prefix not in (*named, *IN_FRONT):
        raise UserError(
            f"Got a grid of {in_words(grid)} for {length} positions: expected {' or '.join(map(str, named))} more than "
            f"its {math.prod(grid)} places."
        )
    return prefix


def _equal_sides(places: int, dims: int) -> Grid | None:
    side = round(max(places, 0) ** (1 / dims))
    return (side,) * dims if side and side**dims == places else None


def codes_in_front(weights: Weights, positions: Tensor, prefix: int, wanted: int) -> Tensor:
    """Return the codes (1, wanted, C) of a class token, if one is wanted: zeros where the weights have none.

    Args:
        weights: By timm's names.
        positions: (1, P + n, C).
        prefix: P.
        wanted: Of the model, 0 or 1.
    """
    others = "cls_token" not in weights and any(name in weights for name in ("dist_token", "reg_token"))
    if prefix == 0 or others:
        return positions.new_zeros(1, wanted, positions.shape[-1])
    return positions[:, :wanted]  # the class token is the first


def stated_grid(path: Path, kernel: Tensor | None) -> Grid | None:
    """Read the grid from the configuration beside a file of weights, ours or of the hub; None where there is none.

    Args:
        path: The file of the weights; only one with a folder's standard name is described by what stands beside it.
        kernel: Of the patch projection, for the side of a patch.
    """
    if path.name not in ("model.safetensors", "pytorch_model.bin"):
        return None
    if (path.parent / "config.yaml").is_file():
        return getattr(_model_of_run(path.parent), "grid_size", None)
    size = _stated_size(path.parent / "config.json")
    if size is None or kernel is None or kernel.ndim != 4:
        return None
    return size[0] // kernel.shape[-2], size[1] // kernel.shape[-1]


def _model_of_run(folder: Path) -> nn.Module | None:
    from softfree.inference.run import build_model
    from softfree.inference.run_directory import RunDirectory

    try:
        with torch.device("meta"):
            return build_model(RunDirectory(folder).read_config())
    except UserError:
        return None  # of something else


def _stated_size(path: Path) -> tuple[int, int] | None:
    """Height and width from a ``config.json`` as timm and transformers write it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        sizes = [
            config.get("model_args", {}).get("img_size"),
            config.get("pretrained_cfg", {}).get("input_size"),
            config.get("image_size"),
        ]
    except (OSError, ValueError, AttributeError):
        return None
    size = next((size for size in sizes if size is not None), None)
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    sides = size[-2:] if isinstance(size, list) else [size, size]
    height, width = sides if len(sides) == 2 else (None, None)
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return height, width
    return None
