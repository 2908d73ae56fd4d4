"""Published weights of vision transformers, fitted to a model of another size, patch, channel count or attention."""

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
from softfree.models.weights.source_grid import POS_GRID, codes_in_front, find_layout, stated_grid
from softfree_runtime.core.errors import UserError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class WeightReport:
    """What became of each weight.

    Attributes:
        matched: Weights of the model that were taken as they are.
        resized: Weights of the model that were fitted: another grid, patch size, channel count or class token.
        new: Weights of the model that the source has not: they keep their start.
        dropped: Weights of the source that the model has no place for.
        assumed: What the source does not say, in words.
    """

    matched: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    assumed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for each fate, blocks taken together."""
        rows = {"matched": self.matched, "resized": self.resized, "new": self.new, "dropped": self.dropped}
        lines = [f"{fate:8}{len(names):5}  {_summary(names)}".rstrip() for fate, names in rows.items()]
        return "\n".join([*lines, *(f"assumed: {what}" for what in self.assumed)])


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
    """Load the weights of a vision transformer, or for a pyramid those of a pyramid, into a model, as far as they fit.

    Channels, patch size and position grid are fitted, a class token's position is added or left out, layer scale is
    folded into the projections when the model has none, the last norm moves between ``norm`` and ``fc_norm`` with the
    pooling, and the head is kept only if the number of classes is the same.

    Args:
        model: The model; changed in place, and only if the source can be used.
        source: A ``.safetensors`` file, a folder with ``model.safetensors``, a ``.pth`` or ``.bin`` file that holds
            nothing but tensors, a hub name ("hf-hub:timm/vit_small_patch16_224.augreg_in1k", with or without the
            prefix), or a timm name with its tag ("vit_small_patch16_224.augreg_in1k").
            Names as timm has them, or as :mod:`softfree.models.weights.names` knows them; a pyramid's as
            :mod:`softfree.models.weights.pyramid` knows them.
        grid: Rows and columns that the learned positions lie on, where the source does not say and they do not lie on
            a square; see :mod:`softfree.models.weights.source_grid`.
        progress: Show the progress of a download.

    Returns:
        What became of each weight.

    Raises:
        UserError: A source that is not found, cannot be read safely, or is no vision transformer of this width, or
            one that was converted for other options of the attention, or whose positions lie on an unknown grid.
    """
    path = find_file(source, config=True, progress=progress)
    if isinstance(model, SoftPyramid):
        if grid is not None:
            raise UserError("A grid of positions is for vision transformers: a pyramid has one in each stage.")
        given = to_pyramid(read_file(path))
        fitted, assumed = fit_pyramid(given, model, str(source))
        return load_fitted(model, fitted, given, {name: name for name in given}, assumed)
    weights = to_timm(read_file(path))
    check_conversion(source, model)
    check_vit(weights, model, str(source))
    places = {name: place_of(name, weights, model) for name in weights}
    whole = {places[name]: tensor for name, tensor in weights.items()}
    fitted, assumed = _fit_positions(fold_layer_scale(whole, model), model, path, grid)
    return load_fitted(model, _fit_patches(fitted, model), whole, places, assumed)


def load_fitted(
    model: VisionTransformer | SoftPyramid,
    fitted: Weights,
    whole: Weights,
    places: dict[str, str],
    assumed: tuple[str, ...] = (),
) -> WeightReport:
    """Load what fits; ``whole`` are the weights before they were fitted, ``places`` the names that they have there."""
    own = {name: t for name, t in model.state_dict().items() if not name.endswith(POS_GRID)}
    places = {name: place for name, place in places.items() if not name.endswith(POS_GRID)}
    loaded = {name: t for name, t in fitted.items() if name in own and own[name].shape == t.shape}
    model.load_state_dict(loaded, strict=False)
    return WeightReport(
        matched=tuple(name for name in own if name in loaded and loaded[name] is whole.get(name)),
        resized=tuple(name for name in own if name in loaded and loaded[name] is not whole.get(name)),
        new=tuple(name for name in own if name not in loaded),
        dropped=tuple(name for name, place in places.items() if place in fitted and place not in loaded),
        assumed=assumed,
    )


def check_vit(weights: Weights, model: VisionTransformer, source: str) -> None:
    """Refuse weights that are of no vision transformer of this width, and ``source`` with them."""
    expected = ("blocks.0.norm1.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in expected if name not in weights]
    if missing:
        raise UserError(
            f"{source} is no vision transformer in timm's naming: expected {', '.join(missing)} among its weights, "
            f"got {', '.join(list(weights)[:3]) or 'none'}."
        )
    width = weights[expected[0]].shape[0]
    if width != model.embed_dim:
        raise UserError(f"{source} has width {width}, the model {model.embed_dim}: choose a model of the same width.")


def check_conversion(source: str | Path, model: VisionTransformer) -> None:
    """Refuse what ``softfree convert`` made for other options: its weights would fit, and mean something else."""
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        return
    with safe_open(path, "pt") as file:
        stated = (file.metadata() or {}).get("attention_options")
    for name, value in json.loads(stated or "{}").items():
        for block in model.blocks:
            if getattr(block.attn, name, value) != value:
                got = getattr(block.attn, name)
                raise UserError(
                    f"{source} was converted for {name}={value!r}, the model has {name}={got!r}: "
                    f"add --attention-options '{{{name}: {value}}}'"
                )


def place_of(name: str, weights: Weights, model: VisionTransformer) -> str:
    """Return the model's name for a weight: the last norm stands before or after the pooling."""
    here, there = ("fc_norm.", "norm.") if model.pool == "avg" else ("norm.", "fc_norm.")
    if name.startswith(there) and f"{here}weight" not in weights:
        return here + name.removeprefix(there)
    return name


def fold_layer_scale(weights: Weights, model: VisionTransformer) -> Weights:
    """Multiply layer scale into the projection before it, for a model without; the function stays the same."""
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
    """Fit the patch projection to the model's channels and patch size."""
    name = "patch_embed.proj.weight"
    kernel = weights.get(name)
    if kernel is None or kernel.ndim != 4 or name not in model.state_dict():
        return weights
    kernel = fit_channels(kernel, model.in_chans)
    if kernel.shape[-2:] != (model.patch_size, model.patch_size):
        kernel = resample_patch_embed(kernel, [model.patch_size, model.patch_size])
    return {**weights, name: kernel}


def fit_channels(kernel: Tensor, in_chans: int) -> Tensor:
    """Bring (C, I, p, p) to (C, in_chans, p, p), such that gray copied to all channels gives what it gave."""
    given = kernel.shape[1]
    if given == in_chans:
        return kernel
    if given == 3:
        return adapt_input_conv(in_chans, kernel)
    return kernel.sum(dim=1, keepdim=True).expand(-1, in_chans, -1, -1) / in_chans


def _fit_positions(
    weights: Weights, model: VisionTransformer, path: Path, given: tuple[int, ...] | None
) -> tuple[Weights, tuple[str, ...]]:
    """Fit the learned positions to the model's grid, with or without a class token; say what was assumed of them."""
    positions = weights.get("pos_embed")
    if positions is None or not isinstance(model.pos_embed, nn.Parameter):
        return weights, ()
    if positions.shape[-1] != model.embed_dim or is_of_volumes(weights):
        return {**weights, "pos_embed": positions.new_empty(0)}, ()  # fits nowhere, and the report says so
    stated = stated_grid(path, weights.get("patch_embed.proj.weight"))
    layout = find_layout(weights, model.grid_size, given=given, stated=stated)
    if layout.grid != model.grid_size or layout.prefix != model.num_prefix_tokens or positions.ndim == 4:
        flat = positions.flatten(1, -2)
        front = codes_in_front(weights, flat, layout.prefix, model.num_prefix_tokens)
        rows, columns = layout.grid
        image = resize_positions(flat[:, layout.prefix :], (rows, columns), model.grid_size, num_prefix_tokens=0)
        weights = {**weights, "pos_embed": torch.cat([front, image], dim=1)}
    return weights, (layout.assumed,) if layout.assumed else ()


def is_of_volumes(weights: Weights) -> bool:
    """Return whether weights are of a model of volumes, by the kernel of their tokenizer."""
    return any(name.startswith("patch_embed.") and t.ndim == 5 for name, t in weights.items())
