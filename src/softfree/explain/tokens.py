"""Gradient times input on tokens: which patches a class logit rests on."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.models import VisionTransformer


def token_map(model: VisionTransformer, pixels: Tensor, class_index: int) -> Tensor:
    """Gradient of a logit with respect to each patch's token as it enters the encoder, times that token.

    Works for every attention, softmax included (Shrikumar et al. 2016, arXiv:1605.01713). It says how the logit would
    change, to first order, if a patch's token shrank towards zero; positive patches speak for the class. It is no
    split of the logit: the map's sum is not the logit, because the network is not linear.

    Args:
        model: in evaluation mode.
        pixels: (B, C, H, W) as the model takes them.
        class_index: the output column.

    Returns:
        (B, h, w) over the grid of patches.
    """
    kept: list[Tensor] = []

    def keep(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(arguments[0].detach().requires_grad_())
        return (kept[0], *arguments[1:])

    handle = model.blocks.register_forward_pre_hook(keep)
    try:
        with torch.enable_grad():
            logit = model(pixels)[:, class_index].sum()
    finally:
        handle.remove()
    tokens = kept[0]  # (B, P + N, C)
    (gradient,) = torch.autograd.grad(logit, tokens)
    relevance = (gradient * tokens).sum(-1).detach()[:, model.num_prefix_tokens :]
    height, width = (-(-side // model.patch_size) for side in pixels.shape[-2:])
    return relevance.view(-1, height, width)
