"""Maps from one backward pass, for every attention: gradient times input, and GradCAM on tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.explain.passes import Entry, Watched, classify, patch_mask
from softfree.models.classifier import Classifier
from softfree.models.pooling import masked_mean

GRADIENT = (
    "Gradient times input: how the class logit would change, to first order, if a token shrank; it looks at one point "
    "only, where a sure model is flat, and its sum is not the logit."
)
GRADCAM = (
    "GradCAM: where the features are strong that on average raise the class logit; nothing that speaks against the "
    "class is shown, and its sum is not the logit."
)


def gradient_times_input(model: Classifier, entry: Entry, watched: Watched, class_index: int) -> Tensor:
    """Gradient of a logit by the tokens that enter a layer, times these tokens (Simonyan et al. 2014; Shrikumar 2016).

    Args:
        model: In evaluation mode.
        entry: What :func:`~softfree.explain.passes.enter` gave.
        watched: What :func:`~softfree.explain.passes.watch` gave; of layer 0 for the patches with their positions.
        class_index: The output column.

    Returns:
        (B, N), signed; 0 for padded tokens.
    """
    tokens, gradient = _gradient(model, entry, watched, class_index)
    return _real((tokens * gradient).sum(-1), model, entry)


def grad_cam(model: Classifier, entry: Entry, watched: Watched, class_index: int) -> Tensor:
    """GradCAM (Selvaraju et al. 2017, arXiv:1610.02391) with the tokens that enter a layer as feature maps.

    ``relu(sum_c a_c t_nc)`` with ``a_c`` the mean over the tokens of the grid of the logit's gradient by ``t_nc``. The
    tokens are those of the residual stream, before the layer's norm: SeqNorm takes the mean over the tokens away, so
    that behind that norm every a_c would be zero.

    Args:
        model: In evaluation mode.
        entry: What :func:`~softfree.explain.passes.enter` gave.
        watched: What :func:`~softfree.explain.passes.watch` gave, usually of the last layer.
        class_index: The output column.

    Returns:
        (B, N), none below 0; 0 for padded tokens.
    """
    tokens, gradient = _gradient(model, entry, watched, class_index)
    weights = masked_mean(gradient, patch_mask(model, entry))  # (B, C)
    return _real((tokens @ weights.unsqueeze(2)).squeeze(2).relu(), model, entry)


def _gradient(model: Classifier, entry: Entry, watched: Watched, class_index: int) -> tuple[Tensor, Tensor]:
    """Tokens of the grid that enter the layer, and the logit's gradient by them, (B, N, C) each."""
    with torch.enable_grad():
        logit = classify(model, entry, watched.last)[:, class_index].sum()
        (gradient,) = torch.autograd.grad(logit, watched.tokens)
    prefix = model.num_prefix_tokens
    return watched.tokens.detach()[:, prefix:], gradient[:, prefix:]


def _real(values: Tensor, model: Classifier, entry: Entry) -> Tensor:
    mask = patch_mask(model, entry)
    return values if mask is None else values.masked_fill(~mask, 0)
