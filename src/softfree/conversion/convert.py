"""Convert a softmax model to SeqNorm weights, using some images, and report how close the result is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as RichTable
from safetensors.torch import save_file
from torch import Tensor

from softfree import __version__
from softfree.attention import SeqNormAttention, SoftmaxAttention
from softfree.conversion.calibration import labeled_table, read_batches
from softfree.conversion.closed_form import Scales, first_order, least_squares, set_scales
from softfree.conversion.fit import attention_inputs, fit, relative_error
from softfree.conversion.next_step import next_command
from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import Source, named_for, open_source
from softfree.conversion.statistics import Statistics
from softfree.core.environment import best_device
from softfree.core.progress import tracked
from softfree.data.dataset import SampleDataset, choose_cache
from softfree.data.table import Table
from softfree.evaluation.metric_specs import quantities
from softfree.evaluation.scores import Scores
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.models import VisionTransformer, create_model
from softfree.reporting.scoring import without_seen
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import replacing, say
from softfree_runtime.core.outputs import probabilities

FITTED = "fit"
STAGES = ("plain", "first_order", "closed_form", FITTED)
Networks = dict[str, VisionTransformer]  # by stage


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        model: Name of the model that the weights are for.
        attention_options: Keywords of its attention.
        out: The file written.
        images: Number of images used.
        unreadable: Errors of images that could not be read, by file.
        errors: For each block's attention ("block 0", ...), and for "features", the relative error at each stage.
        auroc: AUROC on the test rows of a labeled table, for "source" and each stage.
        no_auroc_reason: Why ``auroc`` is empty; else "".
        command: The command that continues training.
    """

    model: str
    attention_options: dict[str, Any]
    out: str
    images: int
    unreadable: dict[str, ReadError]
    errors: dict[str, dict[str, float]]
    auroc: dict[str, float]
    no_auroc_reason: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**vars(self), "unreadable": {file: error.reason for file, error in self.unreadable.items()}}


def convert(source: str, options: ConvertOptions) -> Conversion:
    """Convert a softmax model and write the weights.

    Args:
        source: A run directory of a softmax model, or a file of weights.
        options: All settings.

    Raises:
        UserError: Impossible options, unusable weights, or no readable image.
    """
    _check_options(options)
    device = best_device()
    origin = open_source(source, options)
    table, no_auroc_reason = _table(origin, options)
    batches, unreadable = read_batches(options, origin.preprocessing, table, device)
    model = origin.model.to(device)
    arguments = {
        **origin.arguments,
        "name": named_for(options.attention, origin.arguments["name"]),
        "attention_options": {"normalized": options.normalized},
    }
    networks = {
        stage: _with_weights_of(model, arguments).to(device) for stage in STAGES[: 4 if options.adam_steps else 3]
    }
    errors = _convert_layers(model, networks, batches, options)
    errors["features"] = {stage: _features_error(model, network, batches) for stage, network in networks.items()}
    auroc = {} if table is None else compute_test_auroc({"source": model, **networks}, table, origin, options)
    _write(list(networks.values())[-1], arguments, options)
    return Conversion(
        model=arguments["name"],
        attention_options=arguments["attention_options"],
        out=str(options.out),
        images=sum(len(batch) for batch in batches),
        unreadable=unreadable,
        errors=errors,
        auroc=auroc,
        no_auroc_reason=no_auroc_reason,
        command=next_command(origin, arguments, options, table),
    )


def _check_options(options: ConvertOptions) -> None:
    if options.attention != "seqnorm":
        raise UserError(f"--attention {options.attention}: only seqnorm has a form that imitates softmax")
    if options.out.suffix != ".safetensors":
        raise UserError(f"--out {options.out}: expected a name that ends in .safetensors")
    for name, minimum in (("count", 1), ("batch_size", 1), ("adam_steps", 0)):
        if getattr(options, name) < minimum:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {minimum} or more")


def _table(origin: Source, options: ConvertOptions) -> tuple[Table | None, str]:
    """Return the labeled table, or why there is none."""
    if origin.run is None:
        return None, "the weights do not come from a run, so their classes are unknown"
    try:
        return labeled_table(origin.run, options.images), ""
    except UserError as error:
        return None, str(error)


def _with_weights_of(model: VisionTransformer, arguments: dict[str, Any]) -> VisionTransformer:
    converted = create_model(**arguments).eval()
    # SeqNorm has only its scales and shifts in addition to softmax's parameters.
    missing = converted.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert all("_norm." in name for name in missing)
    return converted


def _convert_layers(
    model: VisionTransformer, networks: Networks, batches: list[Tensor], options: ConvertOptions
) -> dict[str, dict[str, float]]:
    errors: dict[str, dict[str, float]] = {}
    layers = zip(model.blocks, attention_inputs(model, batches), strict=True)
    progress = tracked(layers, "Converting", total=len(model.blocks), shown=options.progress)
    for number, (block, inputs) in enumerate(progress):
        source = block.attn
        assert isinstance(source, SoftmaxAttention)
        with torch.no_grad():
            targets = [source(x) for x in inputs]
        scales = _scales(source, networks["plain"].blocks[number].attn, inputs)  # type: ignore[arg-type]
        errors[f"block {number}"] = {}
        for stage, network in networks.items():
            target = network.blocks[number].attn
            assert isinstance(target, SeqNormAttention)
            if stage in scales:
                set_scales(target, scales[stage])
            if stage == FITTED:
                fit(target, inputs, targets, options.adam_steps)
            errors[f"block {number}"][stage] = relative_error(target, inputs, targets)
    return errors


def _scales(source: SoftmaxAttention, target: SeqNormAttention, inputs: list[Tensor]) -> dict[str, Scales]:
    """Compute the scales and shifts of each stage after "plain"; the fit starts from the closed form."""
    statistics = Statistics.collect(source, inputs, target.normalized, target.eps)
    first = first_order(statistics)
    closed_form = least_squares(statistics, first)
    return {"first_order": first, "closed_form": closed_form, FITTED: closed_form}


@torch.no_grad()
def _features_error(model: VisionTransformer, network: VisionTransformer, batches: list[Tensor]) -> float:
    """Compare the features before the heads."""
    return relative_error(lambda x: _features(network, x), batches, [_features(model, batch) for batch in batches])


def _features(model: VisionTransformer, images: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def _write(model: VisionTransformer, arguments: dict[str, Any], options: ConvertOptions) -> None:
    metadata = {
        "format": "pt",
        "model": arguments["name"],
        "attention_options": json.dumps(arguments["attention_options"]),
        "made_by": f"softfree {__version__} convert",
    }
    with replacing(options.out) as temporary:
        save_file({name: t.cpu().contiguous() for name, t in model.state_dict().items()}, temporary, metadata)


def compute_test_auroc(
    networks: dict[str, VisionTransformer], table: Table, origin: Source, options: ConvertOptions
) -> dict[str, float]:
    """Compute the AUROC (mean over classes) of each network on the test rows that the run was not trained on.

    Returns:
        By the name of the network; empty without such rows.
    """
    assert origin.run is not None
    rows, seen = without_seen(origin.run, table.where("test"))
    if seen:
        say(options.images[0], [f"{seen} test rows left out: the run was trained on their files or patients"])
    if not len(rows.frame):
        return {}
    cache = choose_cache("auto", len(rows.frame), origin.preprocessing)
    dataset = SampleDataset(rows.sources, None, origin.preprocessing, frames=rows.frames, cache=cache)
    inference_options = InferenceOptions(batch_size=options.batch_size, progress=options.progress)
    areas = {}
    for name, network in networks.items():
        logits = infer(network, dataset, len(table.task.outputs), inference_options)
        readable = ~np.isnan(logits.values).any(axis=1)
        scores = Scores(
            table.task,
            probabilities(logits.values[readable], table.task),
            np.asarray(rows.targets)[readable],
            rows.frame["patient"].to_numpy()[readable],
        )
        areas[name] = float(quantities(scores)["auroc"].value)
    return {name: area for name, area in areas.items() if not math.isnan(area)}


console = Console(markup=False, soft_wrap=True)

HEADINGS = {
    "source": "source",
    "plain": "plain initialization",
    "first_order": "first order",
    "closed_form": "closed form",
    "fit": "fit",
}


def print_conversion(conversion: Conversion) -> None:
    """Print the error of each layer and of the features, the test AUROC, and the next command."""
    for error in list(conversion.unreadable.values())[:10]:
        console.print(f"left out {error}", highlight=False)
    stages = [stage for stage in HEADINGS if stage in conversion.errors["features"]]
    table = RichTable(
        title=f"Relative error on {conversion.images} images (1: no better than a constant)", title_justify="left"
    )
    table.add_column("attention of")
    for stage in stages:
        table.add_column(HEADINGS[stage], justify="right")
    for layer, errors in conversion.errors.items():
        name = "features before the head" if layer == "features" else layer
        last = layer == list(conversion.errors)[-2]
        table.add_row(name, *(f"{errors[stage]:.3f}" for stage in stages), end_section=last)
    console.print(table)
    if conversion.auroc:
        areas = ", ".join(f"{HEADINGS[name]} {area:.3f}" for name, area in conversion.auroc.items())
        console.print(f"AUROC on the test rows: {areas}", highlight=False)
    else:
        console.print(
            f"No AUROC: {conversion.no_auroc_reason or 'the table has no test rows that the run was not trained on'}",
            highlight=False,
            markup=False,
        )
    console.print(f"Weights: {conversion.out}\nNext: {conversion.command}", highlight=False)
