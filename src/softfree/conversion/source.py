"""The model to convert: from a run directory, or created for published weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softfree.attention import SoftmaxAttention
from softfree.conversion.options import ConvertOptions
from softfree.core.options import ImageOptions
from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.models import VisionTransformer, create_model, list_models, load_pretrained
from softfree.models.case import CaseTransformer
from softfree.models.patch_embed import stem_of
from softfree.models.weights.files import read_weights
from softfree.models.weights.names import to_timm
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.task import refuse_numbers

WEIGHT_OPTIONS = ("model", "preset", "size", "resize_mode", "channels", "pool", "weights_grid", "model_options")


@dataclass(frozen=True)
class Source:
    """A softmax model in evaluation mode.

    Attributes:
        model: The model.
        arguments: Arguments of :func:`~softfree.models.create_model`, including "name".
        preprocessing: Its preprocessing.
        run: The run it comes from, if any.
    """

    model: VisionTransformer
    arguments: dict[str, Any]
    preprocessing: ImagePreprocessing
    run: Run | None = None


def open_source(source: str, options: ConvertOptions) -> Source:
    """Open a run directory, or weights as :func:`~softfree.models.load_pretrained` reads them.

    Raises:
        UserError: Not found, not softmax, weights that do not fill the model, or a run with options for weights.
    """
    is_run = RunDirectory(source).is_run()
    origin = _from_run(Path(source), options) if is_run else _from_weights(source, options)
    for block in origin.model.blocks:
        attention = block.attn
        if not isinstance(attention, SoftmaxAttention):
            raise UserError(f"{source} has {type(attention).__name__}: expected a softmax model to convert")
        if not attention.projections_are_plain() or len(list(attention.q_norm.parameters())):
            raise UserError(f"{source} normalizes inside its softmax attention (qk_norm or scale_norm): not supported")
    return origin


def _from_run(folder: Path, options: ConvertOptions) -> Source:
    set_options = [name for name in WEIGHT_OPTIONS if getattr(options, name)]
    if set_options:
        raise UserError(f"--{set_options[0].replace('_', '-')} with the run {folder}, which has its own; leave it out")
    run = Run.load(folder)
    refuse_numbers(run.task, "softfree convert")
    if not isinstance(run.model, VisionTransformer) or isinstance(run.model, CaseTransformer):
        raise UserError(
            f"{folder} contains {run.config['model']['name']}: expected a softmax_vit_* model of single images"
        )
    return Source(run.model, dict(run.config["model"]), run.image_preprocessing, run)


def _from_weights(source: str, options: ConvertOptions) -> Source:
    weights = to_timm(read_weights(source, progress=options.progress))
    defaults = ImageOptions()
    preprocessing = ImagePreprocessing.create(
        options.preset or defaults.preset,
        options.size or defaults.size,
        options.resize_mode or defaults.resize_mode,
        options.channels,
    )
    head = weights.get("head.weight")
    arguments = {
        "name": named_for("softmax", options.model),
        "num_classes": 0 if head is None else head.shape[0],
        "img_size": preprocessing.size,
        "in_chans": preprocessing.channels,
        "stem": _stem(source, weights, options),
        "attention_options": {},
        **_pooling(set(weights), options.pool),
        **options.model_options,
    }
    model = create_model(**arguments).eval()
    grid = None if options.weights_grid is None else tuple(options.weights_grid)
    report = load_pretrained(model, source, grid=grid)
    missing = [name for name in report.new if not name.startswith("head.")]
    if missing:
        raise UserError(
            f"{source} does not fill {options.model}: {missing[0]} and {len(missing) - 1} more are missing; "
            "choose a --model of the same depth, or --model-options"
        )
    return Source(model, arguments, preprocessing)


def _stem(source: str, names: Collection[str], options: ConvertOptions) -> Any:
    stem = options.model_options.get("stem") or stem_of(names)
    if stem is None:
        raise UserError(
            f"{source} fits both a stem with strides and one with max pooling: pass --model-options '{{stem: conv}}' or"
            " '{stem: pool}', as in its training"
        )
    return stem


def named_for(attention: str, model: str | None) -> str:
    """Return the name of the model of the same size with another attention."""
    if model is None:
        raise UserError("weights without a run need --model NAME of their size, such as seqnorm_vit_small_patch16")
    name = f"{attention}_vit_{model.partition('_vit_')[2]}"
    if name not in list_models():
        raise unknown_name("model", model, list_models())
    return name


def _pooling(names: set[str], pool: str | None) -> dict[str, Any]:
    """Infer the pooling that the weights were trained with: a norm after the pooling means an average."""
    token = "cls_token" in names
    if pool is not None:
        return {"pool": pool}
    if token and "fc_norm.weight" in names:
        return {"pool": "avg", "class_token": True}
    return {"pool": "token" if token else "avg"}
