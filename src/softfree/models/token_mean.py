"""The mean of a sample's tokens halfway through a model, taken during the forward pass, whole or streamed.

Halfway, the tokens still describe what is in the image; the pooled features before the head keep only what separates
the classes, so that images of another kind look ordinary there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from softfree.models.classifier import Classifier
from softfree.models.pyramid import SoftPyramid


def middle_layer(model: nn.Module) -> nn.Module | None:
    """Return the layer whose input are the tokens (B, N, C) halfway through a model; None if it has none."""
    if isinstance(model, Classifier):
        return model.blocks[len(model.blocks) // 2].norm1  # type: ignore[return-value]
    if isinstance(model, SoftPyramid):
        return model.stages[2].blocks[0]  # type: ignore[index, return-value]
    return None


@contextmanager
def token_mean(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the mean real token, (B, C) in float32, of one batch that the model runs inside the block.

    A stream passes the tokens of its sample in chunks, each equally often.

    Yields:
        A list that holds the mean when the block has ended, and stays empty if the model has no tokens.
    """
    layer = middle_layer(model)
    means: list[Tensor] = []
    if layer is None:
        yield means
        return
    sums: list[Tensor] = []
    counts: list[Tensor | int] = []
    masks: list[Tensor | None] = [None]

    def remember(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        masks[:] = [(*arguments, None)[1]]

    def add(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        tokens, mask = arguments[0].detach(), masks[0]
        if mask is not None:
            tokens = tokens * mask.unsqueeze(2)
        sums[:] = [tokens.sum(dim=1, dtype=torch.float32) + sum(sums)]
        counts[:] = [sum(counts) + (tokens.shape[1] if mask is None else mask.sum(dim=1, keepdim=True))]

    hooks = [layer.register_forward_pre_hook(add)]
    if isinstance(model, Classifier):
        hooks.append(model.blocks.register_forward_pre_hook(remember))
    try:
        yield means
        means += [total / count for total, count in zip(sums, counts, strict=True)]
    finally:
        for hook in hooks:
            hook.remove()
