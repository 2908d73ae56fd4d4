"""Stochastic depth (Huang et al. 2016) whose draws can be made for a whole step, before it is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class StochasticDepth(DropPath):
    """timm's DropPath, by which a sample skips a branch.

    Attributes:
        factors: of each sample of the next batch, (B,); None draws them from torch's generator, as timm does.
    """

    factors: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to (B, ...)."""
        if self.factors is None or not self.training or not self.drop_prob:
            return super().forward(x)
        return x * self.factors.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))


def draw_depths(model: nn.Module, samples: int, rows: Tensor, device: torch.device) -> None:
    """Draw for the ``samples`` of a step from torch's generator, and keep the factors of those at ``rows``."""
    for part in _parts(model):
        if part.drop_prob:
            kept = torch.empty(samples, device=device).bernoulli_(1 - part.drop_prob)
            part.factors = (kept / (1 - part.drop_prob))[rows.to(device)]


@contextmanager
def only(model: nn.Module, row: int) -> Iterator[None]:
    """Pass one sample of the batch by itself."""
    drawn = [(part, part.factors) for part in _parts(model) if part.factors is not None]
    for part, factors in drawn:
        part.factors = factors[row : row + 1]
    try:
        yield
    finally:
        for part, factors in drawn:
            part.factors = factors


def keeping_depths(block: nn.Module) -> dict[str, Any]:
    """Keywords of torch's ``checkpoint`` with which a block has the same factors when its forward pass comes again."""
    drawn = [(part, part.factors) for part in _parts(block)]
    if all(factors is None for _, factors in drawn):
        return {}
    return {"context_fn": lambda: (nullcontext(), _restored(drawn))}


def forget_depths(model: nn.Module) -> None:
    """Let the next batch draw for itself."""
    for part in _parts(model):
        part.factors = None


@contextmanager
def _restored(drawn: list[tuple[StochasticDepth, Tensor | None]]) -> Iterator[None]:
    now = [part.factors for part, _ in drawn]
    for part, factors in drawn:
        part.factors = factors
    try:
        yield
    finally:
        for (part, _), factors in zip(drawn, now, strict=True):
            part.factors = factors


def _parts(model: nn.Module) -> list[StochasticDepth]:
    return [part for part in model.modules() if isinstance(part, StochasticDepth)]
