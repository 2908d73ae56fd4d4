"""Weights that a training starts from: what they ask of the model, and softmax weights taken into SeqNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from softfree.attention import SeqNormAttention, SoftmaxAttention
from softfree.conversion.closed_form import first_order, least_squares, set_scales
from softfree.conversion.fit import attention_inputs, relative_error
from softfree.conversion.source import named_for
from softfree.conversion.statistics import Statistics
from softfree.data.dataset import SampleDataset
from softfree.inference.run_directory import RunDirectory
from softfree.models import (
    SoftPyramid,
    VisionTransformer,
    VolumeTransformer,
    WeightReport,
    create_model,
    load_inflated,
    load_pretrained,
)
from softfree.models.patch_embed import stem_of
from softfree.models.weights.files import read_weights
from softfree.models.weights.names import to_timm
from softfree.training.options import TrainOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml

_STEMS = {"patch": "a patch projection", "conv": "a stem of strided convolutions", "pool": "a stem with maxima"}
LOOKED_AT = 64
"""Training images that a conversion looks at: docs/how-to/convert.md."""


def fit_options(options: TrainOptions) -> tuple[TrainOptions, tuple[str, ...]]:
    """Choose what published weights decide and the user has left open: the stem, and what SeqNorm normalizes.

    Returns:
        The options, and a sentence for each choice.

    Raises:
        UserError: weights that cannot be found or read.
    """
    if options.weights is None or "_vit_" not in options.model:
        return options, ()
    names = set(to_timm(read_weights(options.weights)))
    said: tuple[str, ...] = ()
    stem = _stem_of(str(options.weights), names)
    if stem not in (None, options.stem):
        options = replace(options, stem=stem)
        said += (f"the weights have {_STEMS[stem]}: --stem {stem} is taken",)
    _refuse_rotary(options, names)
    softmax = options.model.startswith("seqnorm_") and is_softmax(str(options.weights), names)
    if softmax and "normalized" not in options.attention_options:
        options = replace(options, attention_options={**options.attention_options, "normalized": "qk"})
        said += ("the weights are of a softmax model: SeqNorm keeps the mean of V, as softmax does",)
    return options, said


def _refuse_rotary(options: TrainOptions, names: set[str]) -> None:
    """Refuse published weights whose attention knows places by itself (rotary positions): half of it would be lost."""
    own = RunDirectory(str(options.weights)).is_run()
    if not own and "pos_embed" not in names and options.model_options.get("pos", "learn") == "learn":
        raise UserError(
            f"--weights {options.weights} has no learned positions, as models with rotary ones (DINOv3); choose"
            " weights with pos_embed, or give --model-options '{pos: none}' to do without"
        )


def is_softmax(source: str, names: set[str]) -> bool:
    """Whether weights are of a vision transformer with softmax attention, as far as their run or names tell."""
    model = _stated_model(source)
    if model is not None:
        return str(model.get("name", "")).startswith("softmax_")
    own = [name for name in names if name.startswith("blocks.0.attn.")]
    return "blocks.0.attn.qkv.weight" in own and not any("_norm." in name for name in own)


def _stem_of(source: str, names: set[str]) -> Any:
    """Tell the stem that weights are of; None where that cannot be told."""
    stem = (_stated_model(source) or {}).get("stem")
    return stem if stem in _STEMS else stem_of(names)


def _stated_model(source: str) -> dict[str, Any] | None:
    """Read the arguments of a run's model; None where the weights are no run's."""
    directory = RunDirectory(source)
    if not directory.is_run():
        return None
    stated = read_yaml(directory.config, "configuration")
    model = stated.get("model") if isinstance(stated, dict) else None
    return model if isinstance(model, dict) else {}


def load_weights(model: nn.Module, source: str, sides: Sequence[int] | None = None) -> WeightReport:
    """Load weights into a model of images or volumes, as far as they fit.

    Args:
        model: changed in place.
        source: the weights.
        sides: of the grid that their positions lie on, where nothing beside them says so.

    Raises:
        UserError: a model of features, or weights that do not fit at all.
    """
    grid = None if sides is None else tuple(sides)
    if isinstance(model, VolumeTransformer):
        return load_inflated(model, source, grid=grid)
    if isinstance(model, VisionTransformer | SoftPyramid):
        return load_pretrained(model, source, grid=grid)
    raise UserError("--weights is for models of images and volumes; features have been encoded by theirs already")


def imitate_softmax(
    model: nn.Module,
    arguments: dict[str, Any],
    source: str,
    samples: SampleDataset,
    sides: Sequence[int] | None = None,
) -> str | None:
    """Set the scales and shifts of SeqNorm so that each attention approximates softmax (docs/how-to/convert.md).

    Args:
        model: With the weights of ``source`` loaded; changed in place.
        arguments: What it was made with, "name" among them.
        source: The weights.
        samples: Training images, of which some are looked at; no label is.
        sides: As for :func:`load_weights`.

    Returns:
        What was done or could not be, in a sentence; None for weights that are of no softmax model.
    """
    if not isinstance(model, VisionTransformer) or not is_softmax(source, set(to_timm(read_weights(source)))):
        return None
    if not all(isinstance(block.attn, SeqNormAttention | SoftmaxAttention) for block in model.blocks):
        kind = type(model.blocks[0].attn).__name__
        return (
            f"the weights are of a softmax model, and only SeqNorm can imitate it: {kind} begins with its projections"
        )
    if isinstance(model.blocks[0].attn, SoftmaxAttention):
        return None
    twin = create_model(**{**arguments, "name": named_for("softmax", arguments["name"]), "attention_options": {}})
    load_weights(twin, source, sides)
    before, after = _set_scales(twin.eval(), model, _batches(samples))
    return (
        f"softmax weights converted to SeqNorm on {min(LOOKED_AT, len(samples))} training images: the attentions differ"
        f" from softmax's by {median(after):.2f} of their spread (median of {len(after)} layers), {median(before):.2f}"
        " without conversion"
    )


def _batches(samples: SampleDataset) -> list[Tensor]:
    """Take training images evenly from all that can be read, those of equal shape together."""
    good = [index for index in range(len(samples)) if index not in samples.failed]
    alike: dict[torch.Size, list[Tensor]] = {}
    for index in good[:: max(1, len(good) // LOOKED_AT)][:LOOKED_AT]:
        image = samples[index]["image"]
        alike.setdefault(image.shape, []).append(image)
    return [batch for images in alike.values() for batch in torch.stack(images).split(16)]


@torch.no_grad()
def _set_scales(twin: nn.Module, model: VisionTransformer, batches: list[Tensor]) -> tuple[list[float], list[float]]:
    """Give the relative error of each attention before and after."""
    assert isinstance(twin, VisionTransformer)
    training = model.training
    model.eval()
    before, after = [], []
    for number, inputs in enumerate(attention_inputs(twin, batches)):
        source, target = twin.blocks[number].attn, model.blocks[number].attn
        assert isinstance(source, SoftmaxAttention)
        assert isinstance(target, SeqNormAttention)
        wanted = [source(x) for x in inputs]
        before.append(relative_error(target, inputs, wanted))
        seen = Statistics.collect(source, inputs, target.normalized, target.eps)
        set_scales(target, least_squares(seen, first_order(seen)))
        after.append(relative_error(target, inputs, wanted))
    model.train(training)
    return before, after
