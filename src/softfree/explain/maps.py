"""One sample, one class, one method: a map on the grid of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from softfree.explain import attention_weights as rows
from softfree.explain import gradients, occlusion, rollout
from softfree.explain import integrated_gradients as tokens
from softfree.explain import logit_decomposition as split
from softfree.explain.activations import (
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
from softfree.explain.log_odds import LogOdds
from softfree.explain.options import MapMethod
from softfree.models.classifier import Classifier
from softfree_runtime.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from softfree.inference.run import Run


@dataclass(frozen=True)
class Map:
    """What a method says of one sample.

    Attributes:
        values: float64 on the grid of tokens: (h, w) of an image or slide, (d, h, w) of a volume, (n,) of a bag.
        method: its name.
        target: number of the class.
        logits: float64 (K,), the model's answer.
        log_odds: of the class: what is explained.
        empty_log_odds: of the class, for the same sample emptied (all pixels the mean), where the method begins there.
            No place can claim them: the map shares them out evenly.
    """

    values: np.ndarray
    method: str
    target: int
    logits: np.ndarray
    log_odds: float
    empty_log_odds: float | None = None

    @property
    def description(self) -> str:
        """What the map means and what it does not, one line."""
        return METHODS[self.method].meaning

    @property
    def signed(self) -> bool:
        """Whether values below zero speak against, so that zero is the middle of the colors."""
        return METHODS[self.method].signed

    @property
    def of_class(self) -> bool:
        """Whether it is a map of the class; otherwise it is the same for every class."""
        return METHODS[self.method].of_class


@dataclass(frozen=True)
class Question:
    """What is asked of a method: the log odds of a class, and a layer, head and place where it looks at such."""

    target: int
    layer: int | None = None
    head: int | None = None
    at: Sequence[float] | None = None
    odds: LogOdds = field(default_factory=LogOdds)


@dataclass(frozen=True)
class Passed:
    """A sample that has gone forward.

    Attributes:
        model: the model.
        sample: as the model takes it, (1, ...).
        entry: what entered its encoder.
        last: its tokens after the last layer (1, P + N, C).
        logits: (1, K).
        inputs: what entered the attention of each layer, for a method that asks for it; else empty.
        watched: the graph from a layer on, for a method that goes back to it; else None.
    """

    model: Classifier
    sample: Tensor
    entry: Entry
    last: Tensor
    logits: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    watched: Watched | None = None


@dataclass(frozen=True)
class Method:
    """A method: values (1, N), what they mean, and what it can be asked for.

    Attributes:
        signed: values below zero speak against.
        of_class: another class has another map.
        of_attention: it looks at what enters the attention of each layer.
        back_to: the layer that it goes back to where none is asked for; None for a method that only goes forward.
        from_empty: it compares the sample with an empty one.
    """

    compute: Callable[[Passed, Question], Tensor]
    meaning: str
    signed: bool = True
    of_class: bool = True
    takes: frozenset[str] = frozenset()
    of_attention: bool = False
    back_to: int | None = None
    from_empty: bool = False


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
    """Explain what a model says of one sample: the log odds of a class.

    Args:
        model: a run, or a classifier in evaluation mode.
        sample: as the model takes it, such as (C, H, W), with or without a batch axis of 1.
        method: a key of :data:`METHODS`; default: as :func:`default_methods` chooses.
        target: a class: its name (of a run) or number; default: what is predicted.
        layer: of ``attention`` (default: the last), or the one whose incoming tokens ``gradient`` (default: the first)
            and ``gradcam`` (default: the last) look at.
        head: of ``attention``; default: the mean over heads.
        at: parts of the width, the height (and the depth) from 0 to below 1, where the query of ``attention`` lies;
            default: the class token where it is pooled, else the center.
        odds: how probabilities follow from the logits; default: as the run has it, and for a bare model exclusive
            classes without a temperature.

    Raises:
        UserError: a model, class, layer, head or place that there is not, an option that the method does not look at,
            or a method that the model has none of.
    """
    network: nn.Module = model if isinstance(model, nn.Module) else model.model
    network = classifier(network)
    chosen = known_method(method or default_methods(network)[0])
    refuse_unused(chosen, layer=layer, head=head, at=at)
    sample = _batch_of_one(network, sample)
    passed = pass_forward(network, sample, enter(network, sample), chosen, layer)
    answer = passed.logits[0].double().cpu().numpy()
    index = class_number(model, network, target, answer)
    odds = odds or LogOdds.of(model)
    values = METHODS[chosen].compute(passed, Question(index, layer, head, at, odds))
    grid = passed.entry.grid or values.shape[1:]
    return Map(
        values[0].detach().double().cpu().numpy().reshape(grid),
        chosen,
        index,
        answer,
        float(odds(passed.logits.double(), index)[0]),
        _empty_log_odds(network, sample, odds, index) if METHODS[chosen].from_empty else None,
    )


@torch.no_grad()
def _empty_log_odds(model: Classifier, sample: Tensor, odds: LogOdds, target: int) -> float:
    entry = enter(model, tokens.empty(model, sample))
    return float(odds(classify(model, entry, through(model, entry)).double(), target)[0])


@torch.no_grad()
def pass_forward(model: Classifier, sample: Tensor, entry: Entry, method: str, layer: int | None = None) -> Passed:
    """Take what entered the encoder forward once, for its answer and for ``method``, a key of :data:`METHODS`."""
    about = METHODS[method]
    inputs: list[Tensor] = []
    watched = None
    if about.of_attention:
        inputs, last = attention_inputs(model, entry)
    elif about.back_to is None:
        last = through(model, entry)
    else:
        watched = watch(model, entry, about.back_to if layer is None else layer)
        last = watched.last
    return Passed(model, sample, entry, last, classify(model, entry, last), inputs, watched)


def known_method(method: str) -> str:
    """Refuse a method that there is not."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    return method


def default_methods(model: Classifier) -> tuple[MapMethod, MapMethod]:
    """Choose two methods to compare, the one of more use first: both agree in sign with the prediction.

    A head that pools the logits of tokens says itself where its evidence is. Where features are pooled, the parts of
    the logit are no guide to what matters, and integrated gradients are: see docs/how-to/explain.md.
    """
    return "split" if model.pooling.of_logits else "integrated", "occlusion"


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
        from softfree.inference.predict import outputs

        if model.task.kind == "multilabel":  # several may be called, and none
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


def _row(passed: Passed, asked: Question) -> Tensor:
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
    return weights[:, model.num_prefix_tokens :]


def _way_back(passed: Passed) -> tuple[Classifier, Entry, Watched]:
    assert passed.watched is not None
    return passed.model, passed.entry, passed.watched


def query_number(model: Classifier, entry: Entry, at: Sequence[float] | None) -> int:
    """Find the token at parts of the sample's sides; without them the class token where it is pooled, or the center."""
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


def _split(passed: Passed, asked: Question) -> Tensor:
    shares = asked.odds.of_logits(passed.logits, asked.target)
    return split.split_odds(passed.model, passed.entry, passed.last, shares, asked.target)


def _integrated(passed: Passed, asked: Question) -> Tensor:
    return tokens.integrated_gradients(
        passed.model, passed.entry, passed.sample, asked.odds, passed.logits, asked.target
    )


def _occlusion(passed: Passed, asked: Question) -> Tensor:
    return occlusion.occlusion(passed.model, passed.entry, passed.sample, asked.odds, passed.logits, asked.target)


def _rollout(passed: Passed, _asked: Question) -> Tensor:
    return rollout.rollout(passed.model, passed.entry, inputs=passed.inputs)


METHODS: dict[str, Method] = {
    "integrated": Method(_integrated, tokens.MEANING, from_empty=True),
    "occlusion": Method(_occlusion, occlusion.MEANING, from_empty=True),
    "split": Method(_split, split.MEANING),
    "gradient": Method(
        lambda passed, asked: gradients.gradient_times_input(*_way_back(passed), asked.odds, asked.target),
        gradients.GRADIENT,
        takes=frozenset({"layer"}),
        back_to=0,
    ),
    "gradcam": Method(
        lambda passed, asked: gradients.grad_cam(*_way_back(passed), asked.odds, asked.target),
        gradients.GRADCAM,
        signed=False,
        takes=frozenset({"layer"}),
        back_to=-1,
    ),
    "rollout": Method(_rollout, rollout.MEANING, of_class=False, of_attention=True),
    "attention": Method(
        _row, rows.MEANING, of_class=False, takes=frozenset({"layer", "head", "at"}), of_attention=True
    ),
}
