"""A sample as the tokens that enter the encoder, and the rest of the forward pass from any layer on."""

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


class Entry(NamedTuple):
    """What enters the encoder.

    Attributes:
        tokens: (B, P + N, C), class token first where there is one.
        mask: True for real tokens (B, P + N), or None for all.
        grid: Sides of the grid of the N tokens, or None for a bag.
    """

    tokens: Tensor
    mask: Tensor | None
    grid: Grid | None


class Watched(NamedTuple):
    """A forward pass with the graph of its upper layers.

    Attributes:
        tokens: (B, P + N, C) that enter the layer that is watched.
        last: (B, P + N, C) after the last layer, a function of them.
    """

    tokens: Tensor
    last: Tensor


class _Entered(Exception):
    """Ends a forward pass at the encoder."""


def classifier(model: nn.Module) -> Classifier:
    """Refuse, with a UserError, a model that is no transformer with one grid of tokens."""
    if not isinstance(model, Classifier):
        raise UserError(
            f"{type(model).__name__} has no single grid of tokens to explain: expected a *_vit_*, *_vit3d_* or *_bag_* "
            "model"
        )
    if not model.num_classes:
        raise UserError(f"Got a {type(model).__name__} without classes: expected a model with a head, num_classes > 0.")
    return model


def block(model: Classifier, layer: int) -> Block:
    """Give a layer; UserError for one out of range."""
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise UserError(f"--layer {layer}: this model has {depth} layers, from 0 to {depth - 1}")
    return cast(Block, model.blocks[layer])


def attention(model: Classifier, layer: int) -> Attention:
    """Give a layer's attention; UserError for a layer out of range or another module in its place."""
    found = block(model, layer).attn
    if not isinstance(found, Attention):
        raise UserError(
            f"layer {layer} has {type(found).__name__}, whose weights are not known: "
            "expected an attention of softfree, or --method gradient"
        )
    return found


@torch.no_grad()
def enter(model: Classifier, sample: Tensor) -> Entry:
    """Compute the tokens that enter the encoder.

    Args:
        model: in evaluation mode.
        sample: (B, ...) as the model takes it.
    """
    seen: list[Entry] = []

    def keep(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(Entry(*(*arguments, None, None)[:3]))
        raise _Entered

    handle = model.blocks.register_forward_pre_hook(keep)
    try:
        model(sample)
    except _Entered:
        pass
    finally:
        handle.remove()
    return seen[0]


def through(model: Classifier, entry: Entry, start: int = 0, end: int | None = None) -> Tensor:
    """Pass tokens through the layers ``start`` to before ``end``; all that are left when it is None."""
    tokens = entry.tokens
    for one in list(model.blocks)[start:end]:
        tokens = one(tokens, entry.mask, entry.grid)
    return tokens


def watch(model: Classifier, entry: Entry, layer: int) -> Watched:
    """Pass tokens through all layers, with a graph from the ``layer`` on; UserError for a layer out of range."""
    block(model, layer)
    start = layer % len(model.blocks)
    with torch.no_grad():
        tokens = through(model, entry, 0, start)
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        return Watched(tokens, through(model, entry._replace(tokens=tokens), start))


def classify(model: Classifier, entry: Entry, tokens: Tensor) -> Tensor:
    """Logits (B, K) of the tokens (B, P + N, C) after the last layer."""
    return model.forward_head(model.norm(tokens), patch_mask(model, entry))


def patch_mask(model: Classifier, entry: Entry) -> Tensor | None:
    """Give the mask (B, N) without the class token."""
    return None if entry.mask is None else entry.mask[:, model.num_prefix_tokens :]


@torch.no_grad()
def attention_inputs(model: Classifier, entry: Entry) -> tuple[list[Tensor], Tensor]:
    """What enters the attention of each layer, (B, P + N, C) each, and the tokens after the last layer."""
    seen: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in range(len(model.blocks)):
            handle = attention(model, layer).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            hooks.callback(handle.remove)
        last = through(model, entry)
    return seen, last
