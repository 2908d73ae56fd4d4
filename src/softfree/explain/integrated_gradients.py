"""Integrated gradients on tokens: which tokens the log odds of a class rest on, beside an empty sample."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.explain.activations import Entry, classify, enter, patch_mask, through
from softfree.explain.log_odds import LogOdds
from softfree.models.bag import BagTransformer
from softfree.models.classifier import Classifier

MEANING = (
    "Integrated gradients: the parts of the log odds of the class that are gained on the way from an empty sample, all "
    "of whose pixels are the mean, to this one. What the empty sample has already is shared out evenly, so that they "
    "sum to the log odds."
)

STEPS = 8


def empty(model: Classifier, sample: Tensor) -> Tensor:
    """Give samples (B, ...) that show nothing: each channel of an image is its mean, each feature of a bag its tiles'.

    Places, sizes and padding stay.
    """
    if not isinstance(model, BagTransformer):
        return sample.mean(dim=tuple(range(2, sample.ndim)), keepdim=True).expand_as(sample)
    mean = sample.where(sample[..., -1:].isfinite(), torch.nan)[..., : model.in_features].nanmean(1, keepdim=True)
    return torch.cat([mean.expand(-1, sample.shape[1], -1), sample[..., model.in_features :]], dim=2)


def integrated_gradients(
    model: Classifier, entry: Entry, sample: Tensor, odds: LogOdds, whole: Tensor, target: int, *, steps: int = STEPS
) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) over the tokens as they enter the encoder.

    The tokens go on a straight way from those of an empty sample to what they are, and each is credited with its mean
    slope along the way: by the theorem of the paper with what is gained in all. Works for every attention, softmax
    included.

    Args:
        model: in evaluation mode.
        entry: what :func:`~softfree.explain.activations.enter` gave.
        sample: of which it gave that, (B, ...).
        odds: what is explained.
        whole: logits (B, K) of the sample.
        target: the class.
        steps: of the integral (midpoint rule); a forward and backward pass each.

    Returns:
        (B, N) for the tokens of the grid, 0 for padded tokens. Their sum is the log odds: see :func:`shared_out`, by
        which what the finite number of steps misses is shared out, too.
    """
    start = enter(model, empty(model, sample)).tokens
    way = entry.tokens - start
    parts = ((step + 0.5) / steps for step in range(steps))
    slopes = sum(_slope(model, entry, start + part * way, odds, target) for part in parts) / steps
    assert isinstance(slopes, Tensor)
    values = (slopes * way).sum(-1)[:, model.num_prefix_tokens :]
    return shared_out(values.double(), odds(whole.double(), target), patch_mask(model, entry))


def shared_out(values: Tensor, total: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share out evenly among real tokens what their values (B, N) lack of a total (B,).

    That is what no token can claim, such as the log odds that an empty sample has already. The order of the tokens
    stays as it is, and so does what one has more than another.
    """
    real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    values = values * real
    rest = (total - values.sum(dim=1)) / real.sum(dim=1).clamp(min=1)
    return values + rest.unsqueeze(1) * real


def _slope(model: Classifier, entry: Entry, tokens: Tensor, odds: LogOdds, target: int) -> Tensor:
    """Gradient of the log odds by tokens, (B, P + N, C)."""
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        now = entry._replace(tokens=tokens)
        total = odds(classify(model, now, through(model, now)), target).sum()
        (gradient,) = torch.autograd.grad(total, tokens)
    return gradient
