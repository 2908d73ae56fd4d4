"""The map of one sample for one class by one method, on the grid of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from softfree.models.classifier import Classifier
from softfree.saliency import (
    attention_weights,
    gradients,
    integrated_gradients,
    logit_decomposition,
    occlusion,
    rollout,
)
from softfree.saliency.activations import (
    EncoderInput,
    GradientPass,
    attention,
    attention_inputs,
    classifier,
    classify,
    encoder_input,
    run_blocks,
    run_blocks_with_grad,
)
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.options import MapMethod
from softfree_runtime.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from softfree.inference.run import Run


@dataclass(frozen=True)
class Map:
    """The result of a method for one sample.

    Attributes:
        values: float64 on the grid of tokens: (h, w) of an image or slide, (d, h, w) of a volume, (n,) of a bag.
        method: Its name.
        target: Number of the class.
        logits: float64 (K,), the output of the model.
        log_odds: Of the class: what is explained.
        empty_log_odds: Log odds of the same sample emptied (all pixels the mean), for methods that compare with it. No
            token can claim them: the map distributes them evenly.
    """

    values: np.ndarray
    method: str
    target: int
    logits: np.ndarray
    log_odds: float
    empty_log_odds: float | None = None

    @property
    def description(self) -> str:
        """What the map means and what it does not, in one line."""
        return METHODS[self.method].meaning

    @property
    def signed(self) -> bool:
        """Whether values below zero are evidence against, so that zero is the middle of the colors."""
        return METHODS[self.method].signed

    @property
    def class_specific(self) -> bool:
        """Whether the map is specific to the class, not the same for every class."""
        return METHODS[self.method].class_specific


@dataclass(frozen=True)
class MapRequest:
    """What to explain: the log odds of a class, and for some methods a layer, head and position."""

    target: int
    layer: int | None = None
    head: int | None = None
    at: Sequence[float] | None = None
    odds: LogOdds = field(default_factory=LogOdds)


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass of a sample.

    Attributes:
        model: The model.
        sample: (1, ...) as the model takes it.
        entry: Input of its encoder.
        last: Tokens after the last layer (1, P + N, C).
        logits: (1, K).
        inputs: Inputs of the attention of each layer, for methods that need them; else empty.
        gradient_pass: The graph from a layer on, for methods that need gradients; else None.
    """

    model: Classifier
    sample: Tensor
    entry: EncoderInput
    last: Tensor
    logits: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    gradient_pass: GradientPass | None = None


@dataclass(frozen=True)
class Method:
    """A method: computes values (1, N).

    Attributes:
        meaning: What the values mean.
        signed: Values below zero are evidence against.
        class_specific: Each class has a map of its own.
        takes: The optional parameters that it uses: layer, head, at.
        needs_attention_inputs: It uses the input of the attention of each layer.
        gradient_layer: The layer whose input it differentiates by default; None for methods without gradients.
        uses_empty_sample: It compares the sample with an empty one.
    """

    compute: Callable[[ForwardPass, MapRequest], Tensor]
    meaning: str
    signed: bool = True
    class_specific: bool = True
    takes: frozenset[str] = frozenset()
    needs_attention_inputs: bool = False
    gradient_layer: int | None = None
    uses_empty_sample: bool = False


def explain_tensor(
    model: Run | nn.Module,
    sample: Tensor,
    method: MapMethod | None = None,
    *,
    target: str | int | None = None,
    layer: int | None = None,
    head: int | None = None,
    at: Sequence[float] | None = None,
    odds: LogOdds | None = None,
) -> Map:
    """Explain the log odds of a class for one sample.

    Args:
        model: A run, or a classifier in evaluation mode.
        sample: As the model takes it, such as (C, H, W), with or without a batch axis of 1.
        method: A key of :data:`METHODS`; default: the first of :func:`default_methods`.
        target: A class: its name (of a run) or number; default: the predicted one.
        layer: The layer of ``attention`` (default: the last), or the one whose input tokens ``gradient`` (default: the
            first) and ``gradcam`` (default: the last) use.
        head: The head of ``attention``; default: the mean over heads.
        at: Position of the query of ``attention`` as fractions of width, height (and depth), from 0 to below 1;
            default: the class token where it is pooled, else the center.
        odds: How probabilities follow from the logits; default: the run's calibration, and for a bare model exclusive
            classes without a temperature.

    Raises:
        UserError: An unknown model, class, layer, head or position, a parameter that the method does not use, or a
            method that the model does not support.
    """
    network: nn.Module = model if isinstance(model, nn.Module) else model.model
    network = classifier(network)
    name = known_method(method or default_methods(network)[0])
    refuse_unused(name, layer=layer, head=head, at=at)
    sample = _batch_of_one(network, sample)
    forward = forward_pass(network, sample, encoder_input(network, sample), name, layer)
    logits = forward.logits[0].double().cpu().numpy()
    index = class_number(model, network, target, logits)
    odds = odds or LogOdds.of(model)
    values = METHODS[name].compute(forward, MapRequest(index, layer, head, at, odds))
    grid = forward.entry.grid or values.shape[1:]
    return Map(
        values[0].detach().double().cpu().numpy().reshape(grid),
        name,
        index,
        logits,
        float(odds(forward.logits.double(), index)[0]),
        _empty_log_odds(network, sample, odds, index) if METHODS[name].uses_empty_sample else None,
    )


@torch.no_grad()
def _empty_log_odds(model: Classifier, sample: Tensor, odds: LogOdds, target: int) -> float:
    entry = encoder_input(model, integrated_gradients.empty_sample(model, sample))
    return float(odds(classify(model, entry, run_blocks(model, entry)).double(), target)[0])


@torch.no_grad()
def forward_pass(
    model: Classifier, sample: Tensor, entry: EncoderInput, method: str, layer: int | None = None
) -> ForwardPass:
    """Run the layers once, keeping what ``method``, a key of :data:`METHODS`, needs."""
    needs = METHODS[method]
    inputs: list[Tensor] = []
    gradient_pass = None
    if needs.needs_attention_inputs:
        inputs, last = attention_inputs(model, entry)
    elif needs.gradient_layer is None:
        last = run_blocks(model, entry)
    else:
        gradient_pass = run_blocks_with_grad(model, entry, needs.gradient_layer if layer is None else layer)
        last = gradient_pass.last
    return ForwardPass(model, sample, entry, last, classify(model, entry, last), inputs, gradient_pass)


def known_method(method: str) -> str:
    """Return a method's name; UserError if it is unknown."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    return method


def default_methods(model: Classifier) -> tuple[MapMethod, MapMethod]:
    """Choose two methods to compare, the more useful one first; the sums of both agree in sign with the prediction.

    A head that pools token logits shows directly where its evidence is. Where features are pooled, the parts of the
    logit are a poor guide to what matters, and integrated gradients a good one: see docs/how-to/explain.md.
    """
    return "split" if model.pooling.of_logits else "integrated", "occlusion"


def refuse_unused(method: str, **parameters: object) -> None:
    """Refuse a layer, head or position that the method does not use."""
    takes = METHODS[method].takes
    for name, value in parameters.items():
        if value is not None and name not in takes:
            methods = ", ".join(other for other in METHODS if name in METHODS[other].takes)
            raise UserError(f"--{name} is not for --method {method}: leave it out, or choose one of: {methods}")


def _batch_of_one(model: Classifier, sample: Tensor) -> Tensor:
    parameter = next(model.parameters())
    sides = getattr(model, "patch_size", None)
    axes = 2 if sides is None else 3 + (not isinstance(sides, int))  # without the batch
    sample = sample if sample.ndim > axes else sample.unsqueeze(0)
    if sample.ndim != axes + 1 or len(sample) != 1:
        raise UserError(f"Got a sample of shape {tuple(sample.shape)}: expected one, of {axes} axes, or a batch of 1.")
    return sample.to(parameter.device, parameter.dtype)


def class_number(model: Run | nn.Module, network: Classifier, target: str | int | None, logits: np.ndarray) -> int:
    """Number of a class given by name (of a run) or number; without one, of the class that logits (K,) predict."""
    if isinstance(model, nn.Module):
        if isinstance(target, str):
            raise UserError(f"Got the class {target!r} for a model without names: expected its number, or give a run.")
        return _number(target, network.num_classes) if target is not None else int(logits.argmax())
    classes = model.task.classes
    if target is None:
        from softfree.inference.predict import outputs

        if model.task.kind == "multilabel":  # several may be predicted, or none
            return int(logits.argmax())
        return classes.index(outputs(logits[None], model.task, model.calibration)["predicted"][0])
    if isinstance(target, int):
        return _number(target, len(classes))
    if target not in classes:
        raise unknown_name("class", target, classes)
    return classes.index(target)


def _number(target: int, classes: int) -> int:
    if not 0 <= target < classes:
        raise UserError(f"Got class number {target}: this model has {classes} classes, from 0 to {classes - 1}.")
    return target


def _row(forward: ForwardPass, request: MapRequest) -> Tensor:
    """Signed weights of one token, of one head or the mean over heads."""
    model, entry = forward.model, forward.entry
    layer = -1 if request.layer is None else request.layer
    module = attention(model, layer)
    if request.head is not None and not 0 <= request.head < module.num_heads:
        raise UserError(
            f"--head {request.head}: the layer has {module.num_heads} heads, from 0 to {module.num_heads - 1}"
        )
    weights = attention_weights.attention_row(
        module, forward.inputs[layer], query_number(model, entry, request.at), entry.mask, entry.grid
    )
    weights = weights.mean(1) if request.head is None else weights[:, request.head]
    return weights[:, model.num_prefix_tokens :]


def _gradient_arguments(forward: ForwardPass) -> tuple[Classifier, EncoderInput, GradientPass]:
    assert forward.gradient_pass is not None
    return forward.model, forward.entry, forward.gradient_pass


def query_number(model: Classifier, entry: EncoderInput, at: Sequence[float] | None) -> int:
    """Number of the token at fractions of the sample's sides; default: a pooled class token, else the center."""
    prefix = model.num_prefix_tokens
    grid = entry.grid or (entry.tokens.shape[1] - prefix,)
    if at is None:
        if model.pool == "token":
            return 0
        at = [0.5] * len(grid)
    if len(at) != len(grid) or not all(0 <= fraction < 1 for fraction in at):
        example = ", ".join(["0.5"] * len(grid))
        raise UserError(
            f"--at {list(at)}: expected fractions of the sample's sides from 0 to below 1, as '[{example}]'"
        )
    position = [int(fraction * side) for fraction, side in zip(reversed(at), grid, strict=True)]
    return prefix + int(np.ravel_multi_index(position, grid))


def _split(forward: ForwardPass, request: MapRequest) -> Tensor:
    shares = request.odds.linearize(forward.logits, request.target)
    return logit_decomposition.split_log_odds(forward.model, forward.entry, forward.last, shares, request.target)


def _integrated(forward: ForwardPass, request: MapRequest) -> Tensor:
    return integrated_gradients.integrated_gradients(
        forward.model, forward.entry, forward.sample, request.odds, forward.logits, request.target
    )


def _occlusion(forward: ForwardPass, request: MapRequest) -> Tensor:
    return occlusion.occlusion(
        forward.model, forward.entry, forward.sample, request.odds, forward.logits, request.target
    )


def _rollout(forward: ForwardPass, _request: MapRequest) -> Tensor:
    return rollout.rollout(forward.model, forward.entry, inputs=forward.inputs)


METHODS: dict[str, Method] = {
    "integrated": Method(_integrated, integrated_gradients.MEANING, uses_empty_sample=True),
    "occlusion": Method(_occlusion, occlusion.MEANING, uses_empty_sample=True),
    "split": Method(_split, logit_decomposition.MEANING),
    "gradient": Method(
        lambda forward, request: gradients.gradient_times_input(
            *_gradient_arguments(forward), request.odds, request.target
        ),
        gradients.GRADIENT,
        takes=frozenset({"layer"}),
        gradient_layer=0,
    ),
    "gradcam": Method(
        lambda forward, request: gradients.grad_cam(*_gradient_arguments(forward), request.odds, request.target),
        gradients.GRADCAM,
        signed=False,
        takes=frozenset({"layer"}),
        gradient_layer=-1,
    ),
    "rollout": Method(_rollout, rollout.MEANING, class_specific=False, needs_attention_inputs=True),
    "attention": Method(
        _row,
        attention_weights.MEANING,
        class_specific=False,
        takes=frozenset({"layer", "head", "at"}),
        needs_attention_inputs=True,
    ),
}
