"""Integrated gradients on tokens: which patches a class logit rests on."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.explain.passes import Entry, classify, enter, patch_mask, through
from softfree.models import VisionTransformer
from softfree.models.classifier import Classifier

MEANING = (
    "Integrated gradients: the mean slope of the class logit while all tokens grow together from near zero; what the "
    "model used, not what is ill, and its sum is not the logit."
)


def token_map(model: VisionTransformer, pixels: Tensor, class_index: int, *, steps: int = 32) -> Tensor:
    """Integrated gradients of a logit over the patches of pictures; see :func:`integrated_gradients`.

    Args:
        model: in evaluation mode.
        pixels: (B, C, H, W) as the model takes them.
        class_index: the output column.
        steps: of the integral (midpoint rule); a forward and backward pass each.

    Returns:
        (B, h, w) over the grid of patches.
    """
    entry = enter(model, pixels)
    assert entry.grid is not None
    return integrated_gradients(model, entry, class_index, steps=steps).unflatten(1, entry.grid)


def integrated_gradients(model: Classifier, entry: Entry, class_index: int, *, steps: int = 32) -> Tensor:
    """Integrated gradients of a logit over the tokens as they enter the encoder.

    Works for every attention, softmax included (Sundararajan et al. 2017, arXiv:1703.01365). All tokens grow together
    from near zero to what they are, and each is credited with its mean slope along the way. Positive tokens speak for
    the class. It says what the model used, not what is ill, and its sum is not the logit: a LayerNorm is not smooth at
    zero tokens, so that the theorem by which such maps add up does not hold. Gradient times input alone looks only at
    the end of the way, where a sure model is flat.

    Args:
        model: in evaluation mode.
        entry: what :func:`~softfree.explain.passes.enter` gave.
        class_index: the output column.
        steps: of the integral (midpoint rule); a forward and backward pass each.

    Returns:
        (B, N) for the tokens of the grid; 0 for padded tokens.
    """
    parts = ((step + 0.5) / steps for step in range(steps))
    slopes = sum(_slope(model, entry, class_index, part) for part in parts) / steps
    assert isinstance(slopes, Tensor)
    values = slopes[:, model.num_prefix_tokens :]
    mask = patch_mask(model, entry)
    return values if mask is None else values.masked_fill(~mask, 0)


def _slope(model: Classifier, entry: Entry, class_index: int, part: float) -> Tensor:
    """Gradient of the logit when the tokens are ``part`` of what they are, times the tokens; (B, P + N)."""
    with torch.enable_grad():
        grown = (entry.tokens.detach() * part).requires_grad_()
        now = entry._replace(tokens=grown)
        logit = classify(model, now, through(model, now))[:, class_index].sum()
        (gradient,) = torch.autograd.grad(logit, grown)
    return (gradient * entry.tokens).sum(-1).detach()
