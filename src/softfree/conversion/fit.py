"""Scales and shifts fitted by gradient descent, their relative error, and the inputs of each attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from softfree.attention import SeqNormAttention
from softfree.models import VisionTransformer


@torch.no_grad()
def relative_error(function: Callable[[Tensor], Tensor], inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Compute the relative error of a function.

    Args:
        function: Maps one of ``inputs`` to the shape of one of ``targets``.
        inputs: Batches.
        targets: Batches (..., C).

    Returns:
        |target - output| / |target - its mean over all axes except C|: 1 for the best constant.
    """
    rows = sum(batch[..., 0].numel() for batch in targets)
    mean = sum(batch.double().flatten(0, -2).sum(0) for batch in targets) / rows  # (C,)
    residual = sum((batch.double() - function(x)).square().sum() for x, batch in zip(inputs, targets, strict=True))
    total = sum((batch.double() - mean).square().sum() for batch in targets)
    return float((torch.as_tensor(residual) / torch.as_tensor(total)).sqrt())


@torch.no_grad()
def attention_inputs(model: VisionTransformer, images: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Compute the inputs of each block's attention, keeping the tokens of one block at a time.

    Args:
        model: In evaluation mode.
        images: Batches (B, channels, H, W); shapes may differ between batches.

    Yields:
        Batches (B, N, C).
    """
    with _record_arguments(model.blocks) as block_arguments:
        for batch in images:
            model.forward_features(batch)
    for block in model.blocks:
        with _record_arguments(block.attn) as attention_arguments:  # type: ignore[arg-type]
            block_arguments = [(block(*arguments), *arguments[1:]) for arguments in block_arguments]
        yield [arguments[0] for arguments in attention_arguments]


@contextmanager
def _record_arguments(module: nn.Module) -> Iterator[list[tuple[Any, ...]]]:
    """Record the positional arguments of each call of a module."""
    calls: list[tuple[Any, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    try:
        yield calls
    finally:
        handle.remove()


LEARNING_RATE = 1e-2


def fit(attention: SeqNormAttention, inputs: Sequence[Tensor], targets: Sequence[Tensor], steps: int) -> None:
    """Run ``steps`` of Adam on gamma and beta alone; restore them if the error does not decrease.

    Args:
        attention: Changed in place.
        inputs: Batches (B, N, C), used in turn.
        targets: Desired outputs (B, N, C).
        steps: Number of steps.
    """
    norms = (attention.q_norm, attention.k_norm, attention.v_norm)
    parameters = [parameter for norm in norms for parameter in norm.parameters()]
    initial = [parameter.detach().clone() for parameter in parameters]
    error = relative_error(attention, inputs, targets)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for step in range(steps):
        x, target = inputs[step % len(inputs)], targets[step % len(inputs)]
        loss = (attention(x) - target).square().mean()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    if not relative_error(attention, inputs, targets) < error:
        with torch.no_grad():
            for parameter, value in zip(parameters, initial, strict=True):
                parameter.copy_(value)
