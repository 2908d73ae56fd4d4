"""Loading published vision transformer weights into models with another size, patch, channel count or attention."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from timm.layers.patch_embed import resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from softfree.models.pos_embed import resize_positions
from softfree.models.pyramid import SoftPyramid
from softfree.models.vit import VisionTransformer
from softfree.models.weights.files import find_file, read_file
from softfree.models.weights.names import to_timm
from softfree.models.weights.pyramid import fit_pyramid, to_pyramid
from softfree.models.weights.source_grid import POS_GRID, config_grid_of, find_layout, prefix_codes
from softfree_runtime.core.errors import UserError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class WeightReport:
    """What happened to each weight.

    Attributes:
        matched: Weights of the model loaded unchanged.
        resized: Weights of the model adapted to another grid, patch size, channel count or class token.
        new: Weights of the model missing in the source; they keep their initialization.
        dropped: Weights of the source without a counterpart in the model.
        assumed: Assumptions about what the source does not state.
    """

    matched: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    assumed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one line per group, with blocks summarized."""
        rows = {"matched": self.matched, "resized": self.resized, "new": self.new, "dropped": self.dropped}
        lines = [f"{group:8}{len(names):5}  {_summary(names)}".rstrip() for group, names in rows.items()]
        return "\n".join([*lines, *(f"assumed: {assumption}" for assumption in self.assumed)])


def _summary(names: Iterable[str]) -> str:
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts.items())


def load_pretrained(
    model: VisionTransformer | SoftPyramid,
    source: str | Path,
    *,
    grid: tuple[int, ...] | None = None,
    progress: bool = False,
) -> WeightReport:
    """Load the weights of a vision transformer into a model, or those of a pyramid into a pyramid, as far as they fit.

    Channels, patch size and position grid are adapted, a class token's position is added or removed, layer scale is
    folded into the projections if the model has none, the last norm moves between ``norm`` and ``fc_norm`` with the
    pooling, and the head is kept only if the number of classes is the same.

    Args:
        model: The model; changed in place, only if the source is usable.
        source: A ``.safetensors`` file, a folder with ``model.safetensors``, a ``.pth`` or ``.bin`` file that
            contains only tensors, a hub name ("hf-hub:timm/vit_small_patch16_224.augreg_in1k", with or without the
            prefix), or a timm name with its tag ("vit_small_patch16_224.augreg_in1k").
            Names of weights as in timm or in :mod:`softfree.models.weights.names`; for a pyramid as in
            :mod:`softfree.models.weights.pyramid`.
        grid: Rows and columns of the learned positions, if the source does not state them and they are not square;
            see :mod:`softfree.models.weights.source_grid`.
        progress: Show the progress of a download.

    Returns:
        A report on each weight.

    Raises:
        UserError: A source that is not found, unsafe, not a vision transformer of this width, converted for other
            attention options, or with positions on an unknown grid.
    """
    path = find_file(source, config=True, progress=progress)
    if isinstance(model, SoftPyramid):
        if grid is not None:
            raise UserError("Got a position grid for a pyramid, which has one per stage: leave it out.")
        weights = to_pyramid(read_file(path))
        fitted, assumed = fit_pyramid(weights, model, str(source))
        return load_fitted(model, fitted, weights, {name: name for name in weights}, assumed)
    weights = to_timm(read_file(path))
    check_conversion(source, model)
    check_vit(weights, model, str(source))
    targets = {name: target_name(name, weights, model) for name in weights}
    original = {targets[name]: tensor for name, tensor in weights.items()}
    fitted, assumed = _fit_positions(fold_layer_scale(original, model), model, path, grid)
    return load_fitted(model, _fit_patches(fitted, model), original, targets, assumed)


def load_fitted(
    model: VisionTransformer | SoftPyramid,
    fitted: Weights,
    original: Weights,
    targets: dict[str, str],
    assumed: tuple[str, ...] = (),
) -> WeightReport:
    """Load what fits; ``original`` are the weights before adaptation, ``targets`` their names by source name."""
    parameters = {name: t for name, t in model.state_dict().items() if not name.endswith(POS_GRID)}
    targets = {name: target for name, target in targets.items() if not name.endswith(POS_GRID)}
    loaded = {name: t for name, t in fitted.items() if name in parameters and parameters[name].shape == t.shape}
    model.load_state_dict(loaded, strict=False)
    return WeightReport(
        matched=tuple(name for name in parameters if name in loaded and loaded[name] is original.get(name)),
        resized=tuple(name for name in parameters if name in loaded and loaded[name] is not original.get(name)),
        new=tuple(name for name in parameters if name not in loaded),
        dropped=tuple(name for name, target in targets.items() if target in fitted and target not in loaded),
        assumed=assumed,
    )


def check_vit(weights: Weights, model: VisionTransformer, source: str) -> None:
    """Check that weights belong to a vision transformer of this width; ``source`` names them in errors."""
    expected = ("blocks.0.norm1.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in expected if name not in weights]
    if missing:
        raise UserError(
            f"{source} is not a vision transformer in timm's naming: expected {', '.join(missing)} among its weights, "
            f"got {', '.join(list(weights)[:3]) or 'none'}."
        )
    width = weights[expected[0]].shape[0]
    if width != model.embed_dim:
        raise UserError(f"{source} has width {width}, the model {model.embed_dim}: choose a model of the same width.")


def check_conversion(source: str | Path, model: VisionTransformer) -> None:
    """Reject weights that ``softfree convert`` made for other options: they fit, but mean something else."""
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        return
    with safe_open(path, "pt") as file:
        converted_for = (file.metadata() or {}).get("attention_options")
    for name, value in json.loads(converted_for or "{}").items():
        for block in model.blocks:
            if getattr(block.attn, name, value) != value:
                actual = getattr(block.attn, name)
                raise UserError(
                    f"{source} was converted for {name}={value!r}, but the model has {name}={actual!r}: "
                    f"add --attention-options '{{{name}: {value}}}'"
                )


def target_name(name: str, weights: Weights, model: VisionTransformer) -> str:
    """Return the model's name for a weight; the last norm is before or after pooling."""
    own_norm, other_norm = ("fc_norm.", "norm.") if model.pool == "avg" else ("norm.", "fc_norm.")
    if name.startswith(other_norm) and f"{own_norm}weight" not in weights:
        return own_norm + name.removeprefix(other_norm)
    return name


def fold_layer_scale(weights: Weights, model: VisionTransformer) -> Weights:
    """Fold layer scale into the projection before it, for a model without layer scale; the function stays the same."""
    weights = dict(weights)
    for scale, projection in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
        for block in range(len(model.blocks)):
            name, target = f"blocks.{block}.{scale}", f"blocks.{block}.{projection}"
            if name in weights and not hasattr(model.blocks[block].ls1, "gamma"):
                gamma = weights.pop(name)
                weights[f"{target}.weight"] = gamma[:, None] * weights[f"{target}.weight"]
                weights[f"{target}.bias"] = gamma * weights[f"{target}.bias"]
    return weights


def _fit_patches(weights: Weights, model: VisionTransformer) -> Weights:
    """Adapt the patch projection to the model's channels and patch size."""
    name = "patch_embed.proj.weight"
    kernel = weights.get(name)
    if kernel is None or kernel.ndim != 4 or name not in model.state_dict():
        return weights
    kernel = fit_channels(kernel, model.in_chans)
    if kernel.shape[-2:] != (model.patch_size, model.patch_size):
        kernel = resample_patch_embed(kernel, [model.patch_size, model.patch_size])
    return {**weights, name: kernel}


def fit_channels(kernel: Tensor, in_chans: int) -> Tensor:
    """Convert (C, I, p, p) to (C, in_chans, p, p), with the same output for gray copied to all channels."""
    channels = kernel.shape[1]
    if channels == in_chans:
        return kernel
    if channels == 3:
        return adapt_input_conv(in_chans, kernel)
    return kernel.sum(dim=1, keepdim=True).expand(-1, in_chans, -1, -1) / in_chans


def _fit_positions(
    weights: Weights, model: VisionTransformer, path: Path, user_grid: tuple[int, ...] | None
) -> tuple[Weights, tuple[str, ...]]:
    """Adapt the learned positions to the model's grid and class token; return the weights and the assumptions made."""
    positions = weights.get("pos_embed")
    if positions is None or not isinstance(model.pos_embed, nn.Parameter):
        return weights, ()
    if positions.shape[-1] != model.embed_dim or is_volume_model(weights):
        return {**weights, "pos_embed": positions.new_empty(0)}, ()  # does not fit, so it is reported as dropped
    config_grid = config_grid_of(path, weights.get("patch_embed.proj.weight"))
    layout = find_layout(weights, model.grid_size, user_grid=user_grid, config_grid=config_grid)
    if layout.grid != model.grid_size or layout.prefix != model.num_prefix_tokens or positions.ndim == 4:
        flat = positions.flatten(1, -2)
        front = prefix_codes(weights, flat, layout.prefix, model.num_prefix_tokens)
        rows, columns = layout.grid
        image = resize_positions(flat[:, layout.prefix :], (rows, columns), model.grid_size, num_prefix_tokens=0)
        weights = {**weights, "pos_embed": torch.cat([front, image], dim=1)}
    return weights, (layout.assumed,) if layout.assumed else ()


def is_volume_model(weights: Weights) -> bool:
    """Return whether weights are of a model for volumes, judging by the kernel of their tokenizer."""
    return any(name.startswith("patch_embed.") and t.ndim == 5 for name, t in weights.items())
