"""Layers of the transformer blocks: activations, stochastic depth, and MLPs computed in chunks of tokens.

Two activations need neither erf nor exp, for processors without them: ``relu2`` is relu(x)^2 (So et al. 2021, "Primer",
arXiv:2109.08668, section 3.2), ``hardswish`` is x relu6(x + 3) / 6 (Howard et al. 2019, "Searching for MobileNetV3",
arXiv:1905.02244, section 5.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from softfree.attention.base import PART, plain_only
from softfree_runtime.core.errors import unknown_name


class ReluSquared(nn.Module):
    """relu(x)^2: one comparison and one product for each feature."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (...) to (...)."""
        positive = F.relu(x)
        return positive * positive  # ONNX's power operator is slower


# GELU is the erf form, as in published weights; on a CPU torch also computes it faster than the tanh form.
ACTS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu2": ReluSquared, "hardswish": nn.Hardswish}


def act_layer(name: str) -> type[nn.Module]:
    """Look up an activation by its name in :data:`ACTS`.

    Raises:
        UserError: An unknown name.
    """
    if name not in ACTS:
        raise unknown_name("act", name, ACTS)
    return ACTS[name]


def apply_in_chunks(
    function: Callable[[Tensor], Tensor], x: Tensor, max_width: int, chunk: int | None = None
) -> Tensor:
    """Apply a token-wise ``function`` to the tokens of ``x`` in chunks, to limit the memory of its wide activations.

    Without gradients, ``chunk`` tokens are processed at a time; if None, a CPU processes as many as fit its cache,
    which is fastest, and other devices process all. With gradients, each chunk is recomputed in the backward pass, so
    that only the inputs are kept; if ``chunk`` is None, all tokens are processed together.

    Args:
        function: From (1, n, C) to (1, n, C).
        x: Tokens (B, N, C).
        max_width: Features of the widest tensor inside ``function``.
        chunk: Tokens per chunk, or None for the rule above.

    Returns:
        (B, N, C).
    """
    training = torch.is_grad_enabled()
    if chunk is None and not training and x.device.type == "cpu":
        chunk = max(256, PART // max_width)
    whole = plain_only() or torch.jit.is_tracing()
    if chunk is None or whole or x.shape[0] * x.shape[1] <= chunk:
        return function(x)
    all_tokens = x.flatten(0, 1).unsqueeze(0)  # (1, B N, C)
    chunks = all_tokens.split(chunk, dim=1)
    if training:
        outputs = [checkpoint(function, tokens, use_reentrant=False) for tokens in chunks]
        return torch.cat(outputs, dim=1).view_as(x)
    first = function(chunks[0])
    out = first.new_empty(all_tokens.shape)
    out[:, :chunk] = first
    for number, tokens in enumerate(chunks[1:], start=1):
        out[:, number * chunk : number * chunk + tokens.shape[1]] = function(tokens)
    return out.view_as(x)


class StochasticDepth(DropPath):
    """timm's DropPath (Huang et al. 2016): a sample skips a branch. The factors can be drawn for a whole step.

    Attributes:
        factors: Factor of each sample of the next batch, (B,); None draws them from torch's generator, as timm does.
    """

    factors: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to (B, ...)."""
        if self.factors is None or not self.training or not self.drop_prob:
            return super().forward(x)
        return x * self.factors.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))


def draw_drop_paths(model: nn.Module, samples: int, rows: Tensor, device: torch.device) -> None:
    """Draw factors for all ``samples`` of a step from torch's generator, and keep those of the samples at ``rows``."""
    for layer in _depth_layers(model):
        if layer.drop_prob:
            kept = torch.empty(samples, device=device).bernoulli_(1 - layer.drop_prob)
            layer.factors = (kept / (1 - layer.drop_prob))[rows.to(device)]


def clear_drop_paths(model: nn.Module) -> None:
    """Let the next batch draw its own factors."""
    for layer in _depth_layers(model):
        layer.factors = None


@contextmanager
def sample_drop_paths(model: nn.Module, row: int) -> Iterator[None]:
    """Use only the factors of one sample of the batch, which is processed alone."""
    saved = [(layer, layer.factors) for layer in _depth_layers(model) if layer.factors is not None]
    for layer, factors in saved:
        layer.factors = factors[row : row + 1]
    try:
        yield
    finally:
        for layer, factors in saved:
            layer.factors = factors


def drop_path_checkpoint_options(block: nn.Module) -> dict[str, Any]:
    """Return the keywords of torch's ``checkpoint`` that make a recomputed block use the same factors."""
    saved = [(layer, layer.factors) for layer in _depth_layers(block)]
    if all(factors is None for _, factors in saved):
        return {}
    return {"context_fn": lambda: (nullcontext(), _use_factors(saved))}


@contextmanager
def _use_factors(saved: list[tuple[StochasticDepth, Tensor | None]]) -> Iterator[None]:
    current = [layer.factors for layer, _ in saved]
    for layer, factors in saved:
        layer.factors = factors
    try:
        yield
    finally:
        for (layer, _), factors in zip(saved, current, strict=True):
            layer.factors = factors


def _depth_layers(model: nn.Module) -> list[StochasticDepth]:
    return [module for module in model.modules() if isinstance(module, StochasticDepth)]
