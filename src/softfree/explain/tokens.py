"""Integrated gradients on tokens: which patches a class logit rests on."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.models import VisionTransformer


def token_map(model: VisionTransformer, pixels: Tensor, class_index: int, *, steps: int = 32) -> Tensor:
    """Integrated gradients of a logit over the patches' tokens as they enter the encoder.

    Works for every attention, softmax included (Sundararajan et al. 2017, arXiv:1703.01365). All tokens grow together
    from near zero to what they are, and each is credited with its mean slope along the way. Positive patches speak for
    the class. It says what the model used, not what is ill, and its sum is not the logit: a LayerNorm is not smooth at
    zero tokens, so that the theorem by which such maps add up does not hold. Gradient times input alone looks only at
    the end of the way, where a sure model is flat.

    Args:
        model: in evaluation mode.
        pixels: (B, C, H, W) as the model takes them.
        class_index: the output column.
        steps: of the integral (midpoint rule); a forward and backward pass each.

    Returns:
        (B, h, w) over the grid of patches.
    """
    relevance = sum(_slope(model, pixels, class_index, (step + 0.5) / steps) for step in range(steps)) / steps
    assert isinstance(relevance, Tensor)
    height, width = (-(-side // model.patch_size) for side in pixels.shape[-2:])
    return relevance[:, model.num_prefix_tokens :].view(-1, height, width)


def _slope(model: VisionTransformer, pixels: Tensor, class_index: int, part: float) -> Tensor:
    """Gradient of the logit when the tokens are ``part`` of what they are, times the tokens; (B, P + N)."""
    tokens: list[Tensor] = []

    def shrink(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole = arguments[0].detach()
        tokens.extend((whole, (whole * part).requires_grad_()))
        return (tokens[1], *arguments[1:])

    handle = model.blocks.register_forward_pre_hook(shrink)
    try:
        with torch.enable_grad():
            logit = model(pixels)[:, class_index].sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logit, tokens[1])
    return (gradient * tokens[0]).sum(-1).detach()
