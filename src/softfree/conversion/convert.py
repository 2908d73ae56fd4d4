"""From a softmax network and some images to a file of SeqNorm weights, and how close they come."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from softfree import __version__
from softfree.attention import SeqNormAttention, SoftmaxAttention
from softfree.conversion.calibration import labeled_table, read_batches
from softfree.conversion.closed_form import Scales, first_order, least_squares, set_scales
from softfree.conversion.errors import relative_error
from softfree.conversion.fit import fit
from softfree.conversion.layers import attention_inputs
from softfree.conversion.next_step import next_command
from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import Source, named_for, open_source
from softfree.conversion.statistics import Statistics
from softfree.conversion.tested import auroc_on_test
from softfree.core.environment import best_device
from softfree.core.progress import tracked
from softfree.data.table import Table
from softfree.models import VisionTransformer, create_model
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import replacing

FITTED = "fit"
STAGES = ("plain", "first_order", "closed_form", FITTED)
Networks = dict[str, VisionTransformer]  # by stage


@dataclass(frozen=True)
class Conversion:
    """What came of a conversion.

    Attributes:
        model: Name of the model that the weights are for.
        attention_options: Of its attention.
        out: The file.
        images: How many were looked at.
        unreadable: Why others were not, by file.
        errors: For each block's attention ("block 0", ...), and for "features", the relative error at each stage.
        auroc: On the test rows of a labeled table, for "source" and stages.
        untested: Why there is no AUROC; empty if there is.
        command: What to do next.
    """

    model: str
    attention_options: dict[str, Any]
    out: str
    images: int
    unreadable: dict[str, ReadError]
    errors: dict[str, dict[str, float]]
    auroc: dict[str, float]
    untested: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return {**vars(self), "unreadable": {file: str(error) for file, error in self.unreadable.items()}}


def convert(source: str, options: ConvertOptions) -> Conversion:
    """Convert, and write the weights.

    Args:
        source: A run directory of a softmax model, or weights.
        options: Everything that can be set.

    Raises:
        UserError: for whatever the user can mend.
    """
    _check_options(options)
    device = best_device()
    origin = open_source(source, options)
    table, untested = _table(origin, options)
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
    auroc = {} if table is None else auroc_on_test({"source": model, **networks}, table, origin, options)
    _write(list(networks.values())[-1], arguments, options)
    return Conversion(
        model=arguments["name"],
        attention_options=arguments["attention_options"],
        out=str(options.out),
        images=sum(len(batch) for batch in batches),
        unreadable=unreadable,
        errors=errors,
        auroc=auroc,
        untested=untested,
        command=next_command(origin, arguments, options),
    )


def _check_options(options: ConvertOptions) -> None:
    if options.attention != "seqnorm":
        raise UserError(f"--attention {options.attention}: only seqnorm has a form that imitates softmax")
    if options.out.suffix != ".safetensors":
        raise UserError(f"--out {options.out}: expected a name that ends in .safetensors")
    for name, least in (("count", 1), ("batch_size", 1), ("adam_steps", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {least} or more")


def _table(origin: Source, options: ConvertOptions) -> tuple[Table | None, str]:
    """Give the labeled table, or why there is none to test on."""
    if origin.run is None:
        return None, "the weights come without a run that says what they predict"
    try:
        return labeled_table(origin.run, options.images), ""
    except UserError as error:
        return None, str(error)


def _with_weights_of(model: VisionTransformer, arguments: dict[str, Any]) -> VisionTransformer:
    made = create_model(**arguments).eval()
    # Scales and shifts are all that SeqNorm has and softmax has not.
    missing = made.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert all("_norm." in name for name in missing)
    return made


def _convert_layers(
    model: VisionTransformer, networks: Networks, batches: list[Tensor], options: ConvertOptions
) -> dict[str, dict[str, float]]:
    errors: dict[str, dict[str, float]] = {}
    layers = zip(model.blocks, attention_inputs(model, batches), strict=True)
    shown = tracked(layers, "Converting", total=len(model.blocks), shown=options.progress)
    for number, (block, inputs) in enumerate(shown):
        source = block.attn
        assert isinstance(source, SoftmaxAttention)
        with torch.no_grad():
            wanted = [source(x) for x in inputs]
        scales = _scales(source, networks["plain"].blocks[number].attn, inputs)  # type: ignore[arg-type]
        errors[f"block {number}"] = {}
        for stage, network in networks.items():
            target = network.blocks[number].attn
            assert isinstance(target, SeqNormAttention)
            if stage in scales:
                set_scales(target, scales[stage])
            if stage == FITTED:
                fit(target, inputs, wanted, options.adam_steps)
            errors[f"block {number}"][stage] = relative_error(target, inputs, wanted)
    return errors


def _scales(source: SoftmaxAttention, target: SeqNormAttention, inputs: list[Tensor]) -> dict[str, Scales]:
    """Give the scales and shifts at each stage but the plain start; the fit begins at the closed form."""
    seen = Statistics.collect(source, inputs, target.normalized, target.eps)
    first = first_order(seen)
    closed = least_squares(seen, first)
    return {"first_order": first, "closed_form": closed, FITTED: closed}


@torch.no_grad()
def _features_error(model: VisionTransformer, network: VisionTransformer, batches: list[Tensor]) -> float:
    """Compare what the heads are given."""
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
