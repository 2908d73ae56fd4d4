"""The input of the encoder, and the forward pass from any layer on."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from softfree.attention import Attention
from softfree.attention.base import Grid
from softfree.models.classifier import Classifier
from softfree.models.encoder import Block
from softfree_runtime.core.errors import UserError


class EncoderInput(NamedTuple):
    """The input of the encoder.

    Attributes:
        tokens: (B, P + N, C), class token first where there is one.
        mask: True for real tokens (B, P + N), or None for all.
        grid: Sides of the grid of the N tokens, or None for a bag.
    """

    tokens: Tensor
    mask: Tensor | None
    grid: Grid | None


class GradientPass(NamedTuple):
    """A forward pass whose upper layers keep their graph.

    Attributes:
        tokens: (B, P + N, C), the input of the first of these layers, with requires_grad.
        last: (B, P + N, C) after the last layer, as a function of them.
    """

    tokens: Tensor
    last: Tensor


class _EncoderReached(Exception):
    """Stops a forward pass at the encoder."""


def classifier(model: nn.Module) -> Classifier:
    """Return the model; UserError if it is not a classifier with one grid of tokens."""
    if not isinstance(model, Classifier):
        raise UserError(
            f"{type(model).__name__} has no single grid of tokens to explain: expected a *_vit_*, *_vit3d_* or *_bag_* "
            "model"
        )
    if not model.num_classes:
        raise UserError(f"Got a {type(model).__name__} without classes: expected a model with a head, num_classes > 0.")
    return model


def block(model: Classifier, layer: int) -> Block:
    """Return a layer; UserError if it is out of range."""
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise UserError(f"--layer {layer}: this model has {depth} layers, from 0 to {depth - 1}")
    return cast(Block, model.blocks[layer])


def attention(model: Classifier, layer: int) -> Attention:
    """Return a layer's attention; UserError if the layer is out of range or has another module in its place."""
    module = block(model, layer).attn
    if not isinstance(module, Attention):
        raise UserError(
            f"layer {layer} has {type(module).__name__}, whose weights are unknown: "
            "expected an attention of softfree, or --method gradient"
        )
    return module


@torch.no_grad()
def encoder_input(model: Classifier, sample: Tensor) -> EncoderInput:
    """Compute the tokens that enter the encoder.

    Args:
        model: In evaluation mode.
        sample: (B, ...) as the model takes it.
    """
    captured: list[EncoderInput] = []

    def capture(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        captured.append(EncoderInput(*(*arguments, None, None)[:3]))
        raise _EncoderReached

    handle = model.blocks.register_forward_pre_hook(capture)
    try:
        model(sample)
    except _EncoderReached:
        pass
    finally:
        handle.remove()
    return captured[0]


def run_blocks(model: Classifier, entry: EncoderInput, start: int = 0, end: int | None = None) -> Tensor:
    """Pass tokens through the layers from ``start`` up to but not including ``end``; to the last when it is None."""
    tokens = entry.tokens
    for layer in list(model.blocks)[start:end]:
        tokens = layer(tokens, entry.mask, entry.grid)
    return tokens


def run_blocks_with_grad(model: Classifier, entry: EncoderInput, layer: int) -> GradientPass:
    """Pass tokens through all layers, with a graph from ``layer`` on; UserError if it is out of range."""
    block(model, layer)
    start = layer % len(model.blocks)
    with torch.no_grad():
        tokens = run_blocks(model, entry, 0, start)
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        return GradientPass(tokens, run_blocks(model, entry._replace(tokens=tokens), start))


def classify(model: Classifier, entry: EncoderInput, tokens: Tensor) -> Tensor:
    """Logits (B, K) of the tokens (B, P + N, C) after the last layer."""
    return model.forward_head(model.norm(tokens), patch_mask(model, entry))


def patch_mask(model: Classifier, entry: EncoderInput) -> Tensor | None:
    """The mask (B, N) without the class token."""
    return None if entry.mask is None else entry.mask[:, model.num_prefix_tokens :]


@torch.no_grad()
def attention_inputs(model: Classifier, entry: EncoderInput) -> tuple[list[Tensor], Tensor]:
    """Inputs of the attention of each layer, (B, P + N, C) each, and the tokens after the last layer."""
    inputs: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in range(len(model.blocks)):
            handle = attention(model, layer).register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
            hooks.callback(handle.remove)
        last = run_blocks(model, entry)
    return inputs, last
