"""``softfree-lab study attention-maps``: what one patch attends to, as in SOFT's figure 4 (arXiv:2110.11945)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from softfree.attention import Attention
from softfree.inference.run import Run
from softfree.models import VisionTransformer
from softfree.saliency.methods.attention_weights import attention_row
from softfree_lab.studies.options import AttentionMapOptions
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.readers import read_image


@dataclass(frozen=True)
class Row:
    """Attention weights of one query.

    Attributes:
        name: Name of the attention, with its options.
        weights: Mean over heads, times the number of tokens, (h, w): 1 is the weight of an even average.
        pixels: (H, W) or (H, W, 3) as the model sees it, in [0, 1] for drawing.
        position: Row and column of the query on the grid.
    """

    name: str
    weights: np.ndarray
    pixels: np.ndarray
    position: tuple[int, int]


def study_attention_maps(options: AttentionMapOptions, image: str | Path, runs: Sequence[str | Path]) -> str:
    """Draw what one patch attends to in each run, next to the image with the patch marked.

    Returns:
        The path of the figure and a line break.

    Raises:
        UserError: A position or layer out of range, a run without a vision transformer, or an unreadable image.
    """
    if len(options.at) != 2 or not all(0 <= fraction < 1 for fraction in options.at):
        raise UserError(f"--at {options.at}: expected two fractions of width and height below 1, such as '[0.5, 0.5]'")
    rows = [compute_row(Run.load(run), image, options) for run in runs]
    _draw(options.out, rows, options.layer)
    return f"{options.out}\n"


def compute_row(run: Run, image: str | Path, options: AttentionMapOptions) -> Row:
    """Compute the attention weights of the patch at ``options.at`` in one run."""
    model = run.model
    if not isinstance(model, VisionTransformer):
        raise UserError(f"{run.folder} is not a vision transformer for images: expected a *_vit_* model")
    try:
        pixels = torch.from_numpy(run.image_preprocessing(read_image(image)))[None]  # (1, C, H, W)
    except ReadError as error:
        raise UserError(str(error)) from None
    depth = len(model.blocks)
    if not -depth <= options.layer < depth:
        raise UserError(f"--layer {options.layer}: this model has {depth} layers, from 0 to {depth - 1}")
    height, width = (-(-side // model.patch_size) for side in pixels.shape[-2:])
    column, row = int(options.at[0] * width), int(options.at[1] * height)
    attention = cast(Attention, model.blocks[options.layer].attn)
    query = model.num_prefix_tokens + row * width + column
    weights = attention_row(attention, _input_of(model, attention, pixels), query, grid=(height, width))
    patches = weights[0, :, model.num_prefix_tokens :].mean(0) * weights.shape[-1]
    return Row(_name(run), patches.view(height, width).numpy(), _for_drawing(pixels[0]), (row, column))


def _input_of(model: VisionTransformer, attention: Attention, pixels: Tensor) -> Tensor:
    """Return the input of ``attention`` in a forward pass on ``pixels``, (1, N, C)."""
    inputs: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        handle.remove()
    return inputs[0].clone()  # outside of inference mode


def _name(run: Run) -> str:
    options: dict[str, Any] = run.config["model"].get("attention_options") or {}
    name = run.model_name.partition("_vit_")[0]
    return name + "".join(f", {key}={value}" for key, value in options.items())


def _for_drawing(pixels: Tensor) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    unit = ((pixels - low) / (high - low).clamp_min(1e-6)).permute(1, 2, 0)
    return unit.squeeze(2).numpy() if unit.shape[2] == 1 else unit.numpy()


def _draw(path: Path, rows: Sequence[Row], layer: int) -> None:
    """Draw weights in multiples of an even average: red above zero, blue below, each panel with its own scale."""
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(2.6 * (len(rows) + 1), 3.2), layout="constrained")
        first, *others = figure.subplots(1, len(rows) + 1)
        _show(first, rows[0], rows[0].pixels, "image")
        for axes, row in zip(others, rows, strict=True):
            limit = float(np.abs(row.weights).max()) or 1.0
            height, width = row.pixels.shape[:2]
            drawn = axes.imshow(
                row.weights,
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                extent=(0, width, height, 0),
                interpolation="nearest",
            )
            _show(axes, row, None, row.name)
            figure.colorbar(drawn, ax=axes, orientation="horizontal", fraction=0.05, pad=0.03)
        figure.suptitle(
            f"Weights of one patch (circle) in layer {layer}, mean over heads; 1 = an even average", x=0.01, ha="left"
        )
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _show(axes: Axes, row: Row, pixels: np.ndarray | None, title: str) -> None:
    height, width = row.pixels.shape[:2]
    if pixels is not None:
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    rows, columns = row.weights.shape
    center = ((row.position[1] + 0.5) * width / columns, (row.position[0] + 0.5) * height / rows)
    axes.plot(*center, "o", mfc="none", mec="#10a040", markersize=9, markeredgewidth=2)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
