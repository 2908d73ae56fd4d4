"""Maps from one backward pass, for every attention: gradient times input, and GradCAM on tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.explain.activations import Entry, Watched, classify, patch_mask
from softfree.explain.log_odds import LogOdds
from softfree.models.classifier import Classifier
from softfree.models.pooling import masked_mean

GRADIENT = (
    "Gradient times input: how the log odds of the class would change, to first order, if a token grew; it looks at "
    "one point only, where a sure model is flat, and neither its sum nor the sign of that says what was predicted."
)
GRADCAM = (
    "GradCAM: where the features are strong that on average raise the log odds of the class; nothing that speaks "
    "against the class is shown, and its sum is not the log odds."
)


def gradient_times_input(model: Classifier, entry: Entry, watched: Watched, odds: LogOdds, target: int) -> Tensor:
    """Gradient by the tokens that enter a layer, times these tokens (Simonyan et al. 2014; Shrikumar 2016).

    Its sum is the slope of the log odds as all tokens grow, which has no sign of its own: each layer begins with a norm
    that undoes the growth, so that larger tokens only weaken what the layers add to them.

    Args:
        model: In evaluation mode.
        entry: What :func:`~softfree.explain.activations.enter` gave.
        watched: What :func:`~softfree.explain.activations.watch` gave; of layer 0 for the patches with their positions.
        odds: What is explained.
        target: The class.

    Returns:
        (B, N), signed; 0 for padded tokens.
    """
    tokens, gradient = _gradient(model, entry, watched, odds, target)
    return _real((tokens * gradient).sum(-1), model, entry)


def grad_cam(model: Classifier, entry: Entry, watched: Watched, odds: LogOdds, target: int) -> Tensor:
    """GradCAM (Selvaraju et al. 2017, arXiv:1610.02391) with the tokens that enter a layer as feature maps.

    ``relu(sum_c a_c t_nc)`` with ``a_c`` the mean over the tokens of the grid of the gradient by ``t_nc``. The tokens
    are those of the residual stream, before the layer's norm: SeqNorm takes the mean over the tokens away, so that
    behind that norm every a_c would be zero.

    Args:
        model: In evaluation mode.
        entry: What :func:`~softfree.explain.activations.enter` gave.
        watched: What :func:`~softfree.explain.activations.watch` gave, usually of the last layer.
        odds: What is explained.
        target: The class.

    Returns:
        (B, N), none below 0; 0 for padded tokens.
    """
    tokens, gradient = _gradient(model, entry, watched, odds, target)
    weights = masked_mean(gradient, patch_mask(model, entry))  # (B, C)
    return _real((tokens @ weights.unsqueeze(2)).squeeze(2).relu(), model, entry)


def _gradient(model: Classifier, entry: Entry, watched: Watched, odds: LogOdds, target: int) -> tuple[Tensor, Tensor]:
    """Tokens of the grid that enter the layer, and the gradient of the log odds by them, (B, N, C) each."""
    with torch.enable_grad():
        total = odds(classify(model, entry, watched.last), target).sum()
        (gradient,) = torch.autograd.grad(total, watched.tokens)
    prefix = model.num_prefix_tokens
    return watched.tokens.detach()[:, prefix:], gradient[:, prefix:]


def _real(values: Tensor, model: Classifier, entry: Entry) -> Tensor:
    mask = patch_mask(model, entry)
    return values if mask is None else values.masked_fill(~mask, 0)
