"""The grid of learned positions in a weights file, and the number of prefix tokens before it.

The shape (1, P + n, C) of positions does not determine their grid: 64 positions may form 8 x 8 or 4 x 16. Models whose
grid has unequal sides therefore save it with their positions (:func:`remember_grid`); for other files, the grid is
looked up in the configuration next to them, or assumed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from softfree_runtime.core.errors import UserError

Weights = Mapping[str, Tensor]
Grid = tuple[int, ...]

POS_GRID = "pos_grid"
# Numbers of prefix tokens if the weights do not name them: none, a class token, also a distillation token, or four or
# eight registers, with or without a class token.
PREFIX_LENGTHS = (0, 1, 2, 5, 9, 4, 8)


@dataclass(frozen=True)
class Layout:
    """The layout of positions.

    Attributes:
        grid: Sides of the grid.
        prefix: Number of prefix tokens with positions.
        assumed: The assumption made, if the layout is uncertain; else empty.
    """

    grid: Grid
    prefix: int
    assumed: str = ""


def remember_grid(module: nn.Module, grid: Sequence[int]) -> None:
    """Save the grid of ``module``'s learned positions with its weights, unless all sides are equal.

    A square (or cubic) number of positions is assumed to form a square (or cube), so that models with such a grid need
    no names besides timm's.
    """
    if len(set(grid)) > 1:
        module.register_buffer(POS_GRID, torch.tensor(tuple(grid)))
        module.register_load_state_dict_pre_hook(_check_grid)


def _check_grid(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Assume the module's own grid if the weights state none, and reject another grid."""
    own_grid = tuple(module.grid_size)  # type: ignore[arg-type]
    stored_grid = tuple(state_dict.setdefault(prefix + POS_GRID, torch.tensor(own_grid)).tolist())
    if stored_grid != own_grid:
        raise UserError(
            f"Got positions for a grid of {format_grid(stored_grid)}, expected {format_grid(own_grid)}: load them with "
            "softfree.models.load_pretrained, which resizes them."
        )


def format_grid(grid: Sequence[int]) -> str:
    """Format a grid as "4 x 16"."""
    return " x ".join(str(side) for side in grid)


def find_layout(
    weights: Weights,
    model_grid: Grid,
    *,
    name: str = "pos_embed",
    user_grid: Grid | None = None,
    config_grid: Grid | None = None,
    dims: int = 2,
) -> Layout:
    """Find the layout of the positions ``weights[name]``.

    In this order: ``user_grid``; the grid saved with them; ``config_grid``, if it fits; a square (or a cube);
    ``model_grid``, if it has as many positions; a square after prefix tokens that the weights do not name.

    Args:
        weights: Weights by timm's names.
        model_grid: Grid of the model they are for.
        name: Name of the positions, (1, P + n, C) or (1, h, w, C).
        user_grid: Grid given by the user.
        config_grid: Grid from a configuration next to the weights.
        dims: Number of sides of the grid of the weights.

    Raises:
        UserError: None of these fits.
    """
    positions = weights[name]
    if positions.ndim == 4:  # as in SAM and NaFlexViT
        return Layout(tuple(positions.shape[1:3]), 0)
    if positions.ndim != 3:
        raise UserError(f"Got positions of shape {tuple(positions.shape)} in the weights: expected (1, number, width).")
    length = positions.shape[1]
    named = _prefix_candidates(weights, name)
    saved = weights.get(name.removesuffix("pos_embed") + POS_GRID)
    if user_grid is not None or saved is not None:
        stated_grid = user_grid if user_grid is not None else tuple(int(side) for side in saved.tolist())  # type: ignore[union-attr]
        if len(stated_grid) != dims:
            raise UserError(
                f"Got a grid of {format_grid(stated_grid)} for the positions of the weights: expected {dims} sides."
            )
        return Layout(stated_grid, _prefix_of(length, stated_grid, named))
    if (
        config_grid is not None
        and len(config_grid) == dims
        and length - math.prod(config_grid) in (*named, *PREFIX_LENGTHS)
    ):
        return Layout(config_grid, length - math.prod(config_grid))
    for prefix in named:
        if grid := _equal_sides(length - prefix, dims):
            # If the model's grid has unequal sides, that of the weights may have, too.
            return Layout(grid, prefix, _assumption(grid) if len(set(model_grid)) > 1 else "")
    for prefix in named:
        if len(model_grid) == dims and length - prefix == math.prod(model_grid):
            return Layout(model_grid, prefix, _assumption(model_grid))
    for prefix in PREFIX_LENGTHS:
        if grid := _equal_sides(length - prefix, dims):
            return Layout(grid, prefix, f"{_assumption(grid)}, after {prefix} prefix tokens")
    raise UserError(
        f"The weights have {length} positions, which do not form a {'square' if dims == 2 else 'cube'}, and their grid "
        "is not saved with them: pass it with --weights-grid '[ROWS, COLUMNS]' (in Python grid=(rows, columns))"
    )


def _assumption(grid: Grid) -> str:
    return f"position grid {format_grid(grid)} (set --weights-grid for another)"


def _prefix_candidates(weights: Weights, name: str) -> tuple[int, ...]:
    """Return possible numbers of prefix tokens with positions, from the tokens in the weights, most likely first."""
    module = name.removesuffix("pos_embed")
    tokens = [weights.get(f"{module}{kind}_token") for kind in ("cls", "dist", "reg")]
    cls, dist, reg = (0 if token is None else token.shape[-2] for token in tokens)
    return tuple(dict.fromkeys([cls, cls + dist, cls + dist + reg, 0]))


def _prefix_of(length: int, grid: Grid, named: Sequence[int]) -> int:
    prefix = length - math.prod(grid)
    if min(grid) < 1 or prefix not in (*named, *PREFIX_LENGTHS):
        raise UserError(
            f"Got a grid of {format_grid(grid)} for {length} positions: expected {' or '.join(map(str, named))} more "
            f"than its {math.prod(grid)} positions."
        )
    return prefix


def _equal_sides(number: int, dims: int) -> Grid | None:
    side = round(max(number, 0) ** (1 / dims))
    return (side,) * dims if side and side**dims == number else None


def prefix_codes(weights: Weights, positions: Tensor, prefix: int, num_prefix_tokens: int) -> Tensor:
    """Return the codes (1, num_prefix_tokens, C) of the model's class token, zeros if the weights have none.

    Args:
        weights: Weights by timm's names.
        positions: (1, P + n, C).
        prefix: P.
        num_prefix_tokens: Number of the model's class tokens, 0 or 1.
    """
    others = "cls_token" not in weights and any(name in weights for name in ("dist_token", "reg_token"))
    if prefix == 0 or others:
        return positions.new_zeros(1, num_prefix_tokens, positions.shape[-1])
    return positions[:, :num_prefix_tokens]  # the class token is the first


def config_grid_of(path: Path, kernel: Tensor | None) -> Grid | None:
    """Read the grid from the configuration next to a weights file, a run's or the hub's; None if there is none.

    Args:
        path: The weights file; a configuration describes only one with a standard name.
        kernel: Kernel of the patch projection, for the side of a patch.
    """
    if path.name not in ("model.safetensors", "pytorch_model.bin"):
        return None
    if (path.parent / "config.yaml").is_file():
        return getattr(_model_of_run(path.parent / "config.yaml"), "grid_size", None)
    size = _config_size(path.parent / "config.json")
    if size is None or kernel is None or kernel.ndim != 4:
        return None
    return size[0] // kernel.shape[-2], size[1] // kernel.shape[-1]


def _model_of_run(config: Path) -> nn.Module | None:
    from softfree.models.registry import build_model

    try:
        with torch.device("meta"):
            return build_model(yaml.safe_load(config.read_text(encoding="utf-8")))
    except (UserError, OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        return None  # a configuration of something else


def _config_size(path: Path) -> tuple[int, int] | None:
    """Read height and width from a ``config.json`` of timm or transformers."""
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
