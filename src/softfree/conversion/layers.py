"""The softmax network, one attention after the other: what each is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from softfree.models import VisionTransformer

Batches = list[Tensor]


@torch.no_grad()
def attention_inputs(model: VisionTransformer, images: Sequence[Tensor]) -> Iterator[Batches]:
    """Give for each block what its attention is given, keeping the tokens of one block at a time.

    Args:
        model: In evaluation mode.
        images: Batches (B, channels, H, W); shapes may differ between batches.

    Yields:
        Batches (B, N, C).
    """
    with _given_to(model.blocks) as held:
        for batch in images:
            model.forward_features(batch)
    for block in model.blocks:
        with _given_to(block.attn) as seen:  # type: ignore[arg-type]
            held = [(block(*given), *given[1:]) for given in held]
        yield [given[0] for given in seen]


@contextmanager
def _given_to(module: nn.Module) -> Iterator[list[tuple[Any, ...]]]:
    """Keep the positional arguments of each call of a module."""
    kept: list[tuple[Any, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, given: kept.append(given))
    try:
        yield kept
    finally:
        handle.remove()
