"""One sample, one class, one method: a map on the grid of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from softfree.errors import UserError, unknown_name
from softfree.explain import gradients, rollout, rows, split, tokens
from softfree.explain.passes import (
    Entry,
    Watched,
    attention,
    attention_inputs,
    classifier,
    classify,
    enter,
    through,
    watch,
)
from softfree.models.classifier import Classifier
from softfree.options.explaining import MapMethod

if TYPE_CHECKING:
    from softfree.runs import Run


@dataclass(frozen=True)
class Map:
    """What a method says of one sample.

    Attributes:
        values: float64 on the grid of tokens: (h, w) of a picture or slide, (d, h, w) of a volume, (n,) of a bag.
        constant: what the values leave out: with it they sum to the logit; None for methods that have no such sum.
        description: what the map means and what it does not, one line.
        method: its name.
        target: number of the class.
        logits: float64 (K,), the model's answer.
        signed: whether values below zero speak against, so that zero is the middle of the colours.
    """

    values: np.ndarray
    constant: float | None
    description: str
    method: str
    target: int
    logits: np.ndarray
    signed: bool = True


@dataclass(frozen=True)
class Question:
    """What is asked of a method: the class, and a layer, head and place where it looks at such."""

    target: int
    layer: int | None
    head: int | None
    at: Sequence[float] | None


@dataclass(frozen=True)
class Passed:
    """A sample that has gone forward.

    Attributes:
        model: the model.
        entry: what entered its encoder.
        last: its tokens after the last layer (1, P + N, C).
        inputs: what entered the attention of each layer, for a method that asks for it; else empty.
        watched: the graph from a layer on, for a method that goes back to it; else None.
    """

    model: Classifier
    entry: Entry
    last: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    watched: Watched | None = None


@dataclass(frozen=True)
class Method:
    """A method: values (1, N) and perhaps a constant, what they mean, and what it can be asked for.

    Attributes:
        of_attention: it looks at what enters the attention of each layer.
        back_to: the layer that it goes back to where none is asked for; None for a method that only goes forward.
    """

    compute: Callable[[Passed, Question], tuple[Tensor, Tensor | None]]
    meaning: str
    signed: bool = True
    takes: frozenset[str] = frozenset()
    of_attention: bool = False
    back_to: int | None = None


def explain_tensor(
    model: Run | nn.Module,
    sample: Tensor,
    method: MapMethod | None = None,
    *,
    target: str | int | None = None,
    layer: int | None = None,
    head: int | None = None,
    at: Sequence[float] | None = None,
) -> Map:
    """Explain what a model says of one sample.

    Args:
        model: a run, or a classifier in evaluation mode.
        sample: as the model takes it, such as (C, H, W), with or without a batch axis of 1.
        method: a key of :data:`METHODS`; default: :data:`DEFAULT`.
        target: a class: its name (of a run) or number; default: what is predicted.
        layer: of ``attention`` (default: the last), or the one whose incoming tokens ``gradient`` (default: the first)
            and ``gradcam`` (default: the last) look at.
        head: of ``attention``; default: the mean over heads.
        at: parts of the width, the height (and the depth) from 0 to below 1, where the query of ``attention`` lies;
            default: the class token where it is pooled, else the centre.

    Raises:
        UserError: a model, class, layer, head or place that there is not, an option that the method does not look at,
            or a method that the model has none of.
    """
    network: nn.Module = model if isinstance(model, nn.Module) else model.model
    network = classifier(network)
    chosen = known_method(method)
    refuse_unused(chosen, layer=layer, head=head, at=at)
    entry = enter(network, _batch_of_one(network, sample))
    passed = pass_forward(network, entry, chosen, layer)
    with torch.no_grad():
        logits = classify(network, entry, passed.last)
    answer = logits[0].double().cpu().numpy()
    index = class_number(model, network, target, answer)
    values, constant = METHODS[chosen].compute(passed, Question(index, layer, head, at))
    grid = entry.grid or values.shape[1:]
    return Map(
        values[0].detach().double().cpu().numpy().reshape(grid),
        None if constant is None else float(constant[0]),
        METHODS[chosen].meaning,
        chosen,
        index,
        answer,
        METHODS[chosen].signed,
    )


@torch.no_grad()
def pass_forward(model: Classifier, entry: Entry, method: str, layer: int | None = None) -> Passed:
    """Take a sample forward once, for its answer and for ``method``, a key of :data:`METHODS`."""
    about = METHODS[method]
    if about.of_attention:
        inputs, last = attention_inputs(model, entry)
        return Passed(model, entry, last, inputs)
    if about.back_to is None:
        return Passed(model, entry, through(model, entry))
    watched = watch(model, entry, about.back_to if layer is None else layer)
    return Passed(model, entry, watched.last, watched=watched)


def known_method(method: str | None) -> str:
    """Take the default where no method is named, and refuse one that there is not."""
    if method is not None and method not in METHODS:
        raise unknown_name("method", method, METHODS)
    return method or DEFAULT


def refuse_unused(method: str, **given: object) -> None:
    """Refuse a layer, head or place that the method does not look at."""
    takes = METHODS[method].takes
    for name, value in given.items():
        if value is not None and name not in takes:
            those = ", ".join(other for other in METHODS if name in METHODS[other].takes)
            raise UserError(f"--{name} is not for --method {method}: leave it out, or choose one of: {those}")


def _batch_of_one(model: Classifier, sample: Tensor) -> Tensor:
    parameter = next(model.parameters())
    sides = getattr(model, "patch_size", None)
    axes = 2 if sides is None else 3 + (not isinstance(sides, int))  # without the batch
    sample = sample if sample.ndim > axes else sample.unsqueeze(0)
    if sample.ndim != axes + 1 or len(sample) != 1:
        raise UserError(f"Got a sample of shape {tuple(sample.shape)}: expected one, of {axes} axes, or a batch of 1.")
    return sample.to(parameter.device, parameter.dtype)


def class_number(model: Run | nn.Module, network: Classifier, target: str | int | None, logits: np.ndarray) -> int:
    """Find the class that is meant: by name (of a run) or number, or the one that logits (K,) say."""
    if isinstance(model, nn.Module):
        if isinstance(target, str):
            raise UserError(f"Got the class {target!r} for a model without names: expected its number, or give a run.")
        return _number(target, network.num_classes) if target is not None else int(logits.argmax())
    classes = model.task.classes
    if target is None:
        from softfree.prediction import outputs

        if model.task.kind == "multilabel":  # several may be called, and none
            return int(logits.argmax())
        return classes.index(outputs(logits[None], model.task, model.operating)["predicted"][0])
    if isinstance(target, int):
        return _number(target, len(classes))
    if target not in classes:
        raise unknown_name("class", target, classes)
    return classes.index(target)


def _number(target: int, classes: int) -> int:
    if not 0 <= target < classes:
        raise UserError(f"Got class number {target}: this model has {classes} classes, from 0 to {classes - 1}.")
    return target


def _row(passed: Passed, asked: Question) -> tuple[Tensor, None]:
    """Signed weights of one token, of one head or the mean over heads."""
    model, entry = passed.model, passed.entry
    layer = -1 if asked.layer is None else asked.layer
    module = attention(model, layer)
    if asked.head is not None and not 0 <= asked.head < module.num_heads:
        raise UserError(
            f"--head {asked.head}: the layer has {module.num_heads} heads, from 0 to {module.num_heads - 1}"
        )
    weights = rows.attention_row(
        module, passed.inputs[layer], query_number(model, entry, asked.at), entry.mask, entry.grid
    )
    weights = weights.mean(1) if asked.head is None else weights[:, asked.head]
    return weights[:, model.num_prefix_tokens :], None


def _way_back(passed: Passed) -> tuple[Classifier, Entry, Watched]:
    assert passed.watched is not None
    return passed.model, passed.entry, passed.watched


def query_number(model: Classifier, entry: Entry, at: Sequence[float] | None) -> int:
    """Find the token at parts of the sample's sides; without them the class token where it is pooled, or the centre."""
    prefix = model.num_prefix_tokens
    grid = entry.grid or (entry.tokens.shape[1] - prefix,)
    if at is None:
        if model.pool == "token":
            return 0
        at = [0.5] * len(grid)
    if len(at) != len(grid) or not all(0 <= part < 1 for part in at):
        example = ", ".join(["0.5"] * len(grid))
        raise UserError(f"--at {list(at)}: expected parts of the sample's sides from 0 to below 1, as '[{example}]'")
    places = [int(part * side) for part, side in zip(reversed(at), grid, strict=True)]
    return prefix + int(np.ravel_multi_index(places, grid))


# The one method that misled in no phantom run of docs/explain.md.
DEFAULT: MapMethod = "gradient"

METHODS: dict[str, Method] = {
    "split": Method(
        lambda passed, asked: split.split_logit(passed.model, passed.entry, asked.target, passed.last), split.MEANING
    ),
    "gradient": Method(
        lambda passed, asked: (gradients.gradient_times_input(*_way_back(passed), asked.target), None),
        gradients.GRADIENT,
        takes=frozenset({"layer"}),
        back_to=0,
    ),
    "gradcam": Method(
        lambda passed, asked: (gradients.grad_cam(*_way_back(passed), asked.target), None),
        gradients.GRADCAM,
        signed=False,
        takes=frozenset({"layer"}),
        back_to=-1,
    ),
    "integrated": Method(
        lambda passed, asked: (tokens.integrated_gradients(passed.model, passed.entry, asked.target), None),
        tokens.MEANING,
    ),
    "rollout": Method(
        lambda passed, asked: (rollout.rollout(passed.model, passed.entry, inputs=passed.inputs), None),
        rollout.MEANING,
        of_attention=True,
    ),
    "attention": Method(_row, rows.MEANING, takes=frozenset({"layer", "head", "at"}), of_attention=True),
}
