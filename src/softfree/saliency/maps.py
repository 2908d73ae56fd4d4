"""The map of one sample for one class by one method, on the grid of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from softfree.models.case import CaseTransformer
from softfree.models.classifier import Classifier
from softfree.saliency.activations import (
    EncoderInput,
    attention_inputs,
    classifier,
    classify,
    encoder_input,
    run_blocks,
    run_blocks_with_grad,
)
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.methods import METHODS, ForwardPass, MapRequest, default_methods, known_method, refuse_unused
from softfree.saliency.methods.integrated_gradients import empty_sample
from softfree.saliency.options import MapMethod
from softfree_runtime.core.errors import ReadError, UserError, unknown_name
from softfree_runtime.core.task import refuse_times

if TYPE_CHECKING:
    from softfree.inference.run import Run


@dataclass(frozen=True)
class Map:
    """The result of a method for one sample.

    Attributes:
        values: float64 on the grid of tokens: (h, w), (d, h, w) in three dimensions, or (n,) of a bag.
        method: Its name.
        target: Number of the class.
        logits: float64 (K,), the output of the model.
        log_odds: Of the class: what is explained; of a regression, the number minus the mean of training.
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
        return METHODS[self.method].description

    @property
    def signed(self) -> bool:
        """Whether values below zero are evidence against, so that zero is the middle of the colors."""
        return METHODS[self.method].signed

    @property
    def class_specific(self) -> bool:
        """Whether the map is specific to the class, not the same for every class."""
        return METHODS[self.method].class_specific


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
        method: A key of :data:`~softfree.saliency.methods.METHODS`; default: the first of
            :func:`~softfree.saliency.methods.default_methods`.
        target: A class: its name (of a run) or number; default: the predicted one.
        layer: The layer of ``attention`` (default: the last), or the one whose input tokens ``gradient`` (default: the
            first) and ``gradcam`` (default: the last) use.
        head: The head of ``attention``; default: the mean over heads.
        at: Position of the query of ``attention`` as fractions of width, height (and depth), from 0 to below 1;
            default: the class token where it is pooled, else the center.
        odds: How probabilities follow from the logits; default: the run's calibration, and for a bare model exclusive
            classes without a temperature.

    Raises:
        ReadError: The model's numbers are not finite.
        UserError: An unknown model, class, layer, head or position, a parameter that the method does not use, or a
            method that the model does not support.
    """
    network: nn.Module = model if isinstance(model, nn.Module) else model.model
    network = classifier(network)
    name = known_method(method or default_methods(network)[0])
    spec = METHODS[name]
    refuse_unused(name, layer=layer, head=head, at=at)
    sample = _batch_of_one(network, sample)
    forward = forward_pass(network, sample, encoder_input(network, sample), name, layer)
    logits = forward.logits[0].double().cpu().numpy()
    index = class_number(model, network, target, logits)
    odds = odds or LogOdds.of(model)
    values = spec.compute(forward, MapRequest(index, spec.layer if layer is None else layer, head, at, odds))
    grid = forward.entry.grid or values.shape[1:]
    return Map(
        values[0].detach().double().cpu().numpy().reshape(grid),
        name,
        index,
        logits,
        float(odds(forward.logits.double(), index)[0]),
        _empty_log_odds(network, sample, odds, index) if spec.uses_empty_sample else None,
    )


@torch.no_grad()
def _empty_log_odds(model: Classifier, sample: Tensor, odds: LogOdds, target: int) -> float:
    entry = encoder_input(model, empty_sample(model, sample))
    return float(odds(classify(model, entry, run_blocks(model, entry)).double(), target)[0])


@torch.no_grad()
def forward_pass(
    model: Classifier, sample: Tensor, entry: EncoderInput, method: str, layer: int | None = None
) -> ForwardPass:
    """Run the layers once, keeping what ``method``, a key of :data:`~softfree.saliency.methods.METHODS`, needs."""
    spec = METHODS[method]
    inputs: list[Tensor] = []
    gradient_pass = None
    if spec.needs_attention_inputs:
        inputs, last = attention_inputs(model, entry)
    elif spec.needs_gradient:
        gradient_pass = run_blocks_with_grad(model, entry, spec.layer if layer is None else layer)
        last = gradient_pass.last
    else:
        last = run_blocks(model, entry)
    return ForwardPass(model, sample, entry, last, classify(model, entry, last), inputs, gradient_pass)


def _batch_of_one(model: Classifier, sample: Tensor) -> Tensor:
    parameter = next(model.parameters())
    sides = getattr(model, "patch_size", None)
    is_row = sides is None or isinstance(model, CaseTransformer)  # rows of tiles, or of images
    axes = 2 if is_row else 3 + (not isinstance(sides, int))  # without the batch
    sample = sample if sample.ndim > axes else sample.unsqueeze(0)
    if sample.ndim != axes + 1 or len(sample) != 1:
        raise UserError(f"Got a sample of shape {tuple(sample.shape)}: expected one, of {axes} axes, or a batch of 1.")
    return sample.to(parameter.device, parameter.dtype)


def class_number(model: Run | nn.Module, network: Classifier, target: str | int | None, logits: np.ndarray) -> int:
    """Number of a class given by name (of a run) or number; without one, of the class that logits (K,) predict.

    Raises:
        ReadError: The logits are not finite.
        UserError: There is no such class.
    """
    if not np.isfinite(logits).all():
        raise not_finite()
    if isinstance(model, nn.Module):
        if isinstance(target, str):
            raise UserError(f"Got the class {target!r} for a model without names: expected its number, or give a run.")
        return _number(target, network.num_classes) if target is not None else int(logits.argmax())
    refuse_times(model.task, "a saliency map")
    classes = model.task.classes
    if target is None and model.task.numeric:
        return 0
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


def not_finite() -> ReadError:
    """Return the error for a sample for which the model gives no finite numbers."""
    return ReadError("the model gave NaN or infinite numbers; if it ran in 16 bits, use fp32", "not_finite")


def _number(target: int, classes: int) -> int:
    if not 0 <= target < classes:
        raise UserError(f"Got class number {target}: this model has {classes} classes, from 0 to {classes - 1}.")
    return target
