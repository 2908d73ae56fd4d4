"""Pretrained weights: which options they imply, and conversion of softmax weights to SeqNorm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softfree.attention import SeqNormAttention, SoftmaxAttention
from softfree.conversion.closed_form import first_order, least_squares, set_scales
from softfree.conversion.fit import attention_inputs, relative_error
from softfree.conversion.source import named_for
from softfree.conversion.statistics import Statistics
from softfree.core.options import TrainOptions
from softfree.data.dataset import SampleDataset
from softfree.data.modalities.base import Preprocessing
from softfree.data.seen_rows import read_seen_rows, reads_series
from softfree.data.table import Table
from softfree.inference.run_directory import RunDirectory
from softfree.models import (
    SoftPyramid,
    VisionTransformer,
    VolumeTransformer,
    WeightReport,
    load_inflated,
    load_pretrained,
)
from softfree.models.case import CaseTransformer
from softfree.models.patch_embed import stem_of
from softfree.models.registry import build_model
from softfree.models.weights.files import read_weights
from softfree.models.weights.names import to_timm
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml

_STEMS = {"patch": "a patch projection", "conv": "a stem of strided convolutions", "pool": "a stem with max pooling"}
CONVERSION_IMAGES = 64
"""Training images, or cases, used for a conversion: docs/how-to/convert.md."""
IMAGES_OF_CASE = 4
"""Images of each case that are used."""


def options_for_weights(options: TrainOptions) -> tuple[TrainOptions, tuple[str, ...]]:
    """Set options that pretrained weights imply and the user left open: the stem, and what SeqNorm normalizes.

    Returns:
        The options, and a sentence for each choice.

    Raises:
        UserError: The weights cannot be found or read.
    """
    if options.weights is None or "_vit_" not in options.model:
        return options, ()
    names = set(to_timm(read_weights(options.weights)))
    notes: tuple[str, ...] = ()
    stem = _stem_of(str(options.weights), names)
    if stem not in (None, options.stem):
        options = replace(options, stem=stem)
        notes += (f"the weights have {_STEMS[stem]}: --stem {stem} is used",)
    _refuse_rotary(options, names)
    softmax = options.model.startswith("seqnorm_") and is_softmax(str(options.weights), names)
    if softmax and "normalized" not in options.attention_options:
        options = replace(options, attention_options={**options.attention_options, "normalized": "qk"})
        notes += ("the weights come from a softmax model: SeqNorm keeps the mean of V, as softmax does",)
    return options, notes


def refuse_seen(option: str, source: str | Path | None, table: Table, preprocessing: Preprocessing) -> None:
    """Refuse a trained model that knows the rows by which a training is validated or tested.

    Args:
        option: That names it.
        source: A run directory, or weights in one; None, or weights from elsewhere, are not refused.
        table: The training's.
        preprocessing: The training's.

    Raises:
        UserError: The run was trained on some of them; test rows may not be its validation rows, either.
    """
    if source is None or not Path(source).exists():
        return
    directory = RunDirectory(source if Path(source).is_dir() else Path(source).parent)
    seen = read_seen_rows(directory.seen)
    if seen is None:
        return
    split = table.frame["split"]
    held = table.take(np.flatnonzero(split.isin(["val", "test"])))
    known = seen.rows(held.frame, whole_series=reads_series(preprocessing))
    if known.any():
        before = np.array(directory.read_split().splits_of(held.keys))
        known &= (held.frame["split"] == "test").to_numpy() | (before != "val")
    if known.any():
        raise UserError(
            f"--{option} {source} was trained on {known.sum()} of the {len(known)} rows that validate and test this"
            f" run: use its split with --split-from {directory.root}, or give the table a column split in which these"
            " rows are train"
        )


def _refuse_rotary(options: TrainOptions, names: set[str]) -> None:
    """Refuse published weights with rotary position embeddings, which this attention does not have."""
    is_run = RunDirectory(str(options.weights)).is_run()
    if not is_run and "pos_embed" not in names and options.model_options.get("pos", "learn") in ("learn", "random"):
        raise UserError(
            f"--weights {options.weights} has no learned positions, like models with rotary positions (DINOv3);"
            " choose weights with pos_embed, or train without positions: --model-options '{pos: none}'"
        )


def is_softmax(source: str, names: set[str]) -> bool:
    """Whether weights come from a vision transformer with softmax attention, judged by their run or names."""
    model = _model_arguments(source)
    if model is not None:
        return str(model.get("name", "")).startswith("softmax_")
    attention = [name for name in names if name.startswith("blocks.0.attn.")]
    return "blocks.0.attn.qkv.weight" in attention and not any("_norm." in name for name in attention)


def _stem_of(source: str, names: set[str]) -> Any:
    """Return the stem of the model that weights come from; None if unknown."""
    stem = (_model_arguments(source) or {}).get("stem")
    return stem if stem in _STEMS else stem_of(names)


def _model_arguments(source: str) -> dict[str, Any] | None:
    """Return the model arguments of a run; None if the weights are not from a run."""
    directory = RunDirectory(source)
    if not directory.is_run():
        return None
    stated = read_yaml(directory.config, "configuration")
    model = stated.get("model") if isinstance(stated, dict) else None
    return model if isinstance(model, dict) else {}


def load_weights(model: nn.Module, source: str, sides: Sequence[int] | None = None) -> WeightReport:
    """Load weights into a model of images or volumes, as far as they fit.

    Args:
        model: Changed in place.
        source: The weights.
        sides: Grid of their positions, where the source does not state it.

    Raises:
        UserError: The model takes features, or the weights do not fit at all.
    """
    grid = None if sides is None else tuple(sides)
    if isinstance(model, CaseTransformer):
        for tokenizer in model.tokenizers:  # of views of another kind or size: patches and positions
            load_weights(tokenizer, source, sides)
    if isinstance(model, VolumeTransformer):
        return load_inflated(model, source, grid=grid)
    if isinstance(model, VisionTransformer | SoftPyramid):
        return load_pretrained(model, source, grid=grid)
    raise UserError("--weights is for models of images and volumes; features were already encoded by a model")


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
        arguments: Its arguments, including "name".
        source: The weights.
        samples: Training images; some of them are used, without labels.
        sides: As for :func:`load_weights`.

    Returns:
        A sentence on what was done, or why not; None for weights that are not from a softmax model.
    """
    if not isinstance(model, VisionTransformer) or not is_softmax(source, set(to_timm(read_weights(source)))):
        return None
    if not all(isinstance(block.attn, SeqNormAttention | SoftmaxAttention) for block in model.blocks):
        kind = type(model.blocks[0].attn).__name__
        return (
            f"the weights come from a softmax model, which only SeqNorm can imitate: {kind} uses only its projections"
        )
    if isinstance(model.blocks[0].attn, SoftmaxAttention):
        return None
    softmax = {"name": named_for("softmax", arguments["name"]), "attention_options": {}}
    twin = build_model({"model": {**arguments, **softmax}})
    load_weights(twin, source, sides)
    batches = _cases(samples) if isinstance(model, CaseTransformer) else _batches(samples)
    before, after = _set_scales(twin.eval(), model, batches)
    number = sum(len(batch) for batch in batches)
    return (
        f"softmax weights converted to SeqNorm on {number} training"
        f" {'cases' if isinstance(model, CaseTransformer) else 'images'}: the outputs"
        f" of the attentions differ by {median(after):.2f} standard deviations (median of {len(after)} layers),"
        f" {median(before):.2f} without conversion"
    )


def _batches(samples: SampleDataset) -> list[Tensor]:
    """Return batches of evenly chosen readable training images, each of one shape."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for image in _chosen(samples):
        by_shape.setdefault(image.shape, []).append(image)
    return [batch for images in by_shape.values() for batch in torch.stack(images).split(16)]


def _cases(samples: SampleDataset) -> list[Tensor]:
    """Return evenly chosen readable training cases (1, R, F + 3), of few images: softmax compares all their tokens."""
    return [case[:IMAGES_OF_CASE].unsqueeze(0) for case in _chosen(samples)]


def _chosen(samples: SampleDataset) -> Iterator[Tensor]:
    readable = [index for index in range(len(samples)) if index not in samples.failed]
    places = np.linspace(0, len(readable) - 1, min(len(readable), CONVERSION_IMAGES)).astype(int)
    chosen = samples.without_augmentation([readable[place] for place in places])
    for index in range(len(chosen)):
        yield chosen[index]["image"]


@torch.no_grad()
def _set_scales(twin: nn.Module, model: VisionTransformer, batches: list[Tensor]) -> tuple[list[float], list[float]]:
    """Set scales and shifts; return the relative error of each attention before and after."""
    assert isinstance(twin, VisionTransformer)
    training = model.training
    model.eval()
    before, after = [], []
    for number, inputs in enumerate(attention_inputs(twin, batches)):
        source, target = twin.blocks[number].attn, model.blocks[number].attn
        assert isinstance(source, SoftmaxAttention)
        assert isinstance(target, SeqNormAttention)
        outputs = [source(x) for x in inputs]
        before.append(relative_error(target, inputs, outputs))
        statistics = Statistics.collect(source, inputs, target.normalized, target.eps)
        set_scales(target, least_squares(statistics, first_order(statistics)))
        after.append(relative_error(target, inputs, outputs))
    model.train(training)
    return before, after
