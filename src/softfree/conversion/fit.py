"""Scales and shifts of one attention fitted by gradients, where the closed form is not close enough."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softfree.attention import SeqNormAttention
from softfree.conversion.errors import relative_error

RATE = 1e-2


def fit(attention: SeqNormAttention, inputs: Sequence[Tensor], wanted: Sequence[Tensor], steps: int) -> None:
    """Take ``steps`` of Adam on gamma and beta alone; they stay as they were if that brings nothing.

    Args:
        attention: Changed in place.
        inputs: Batches (B, N, C), used in turn.
        wanted: What the attention should make of them, (B, N, C).
        steps: Number of steps.
    """
    norms = (attention.q_norm, attention.k_norm, attention.v_norm)
    parameters = [parameter for norm in norms for parameter in norm.parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    error = relative_error(attention, inputs, wanted)
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for step in range(steps):
        given, target = inputs[step % len(inputs)], wanted[step % len(inputs)]
        loss = (attention(given) - target).square().mean()
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    if not relative_error(attention, inputs, wanted) < error:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
