"""Integrated gradients on tokens: which tokens the log odds of a class rest on, compared with an empty sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softfree.models.bag import BagTransformer
from softfree.models.case import CaseTransformer
from softfree.models.classifier import Classifier
from softfree.models.slide import SlideTransformer
from softfree.saliency.activations import EncoderInput, classify, encoder_input, patch_mask, run_blocks
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method
from softfree_runtime.preprocessing.case import TOKENIZER

STEPS = 8


def empty_sample(model: Classifier, sample: Tensor) -> Tensor:
    """Samples (B, ...) that show nothing: each channel of an image is its mean, each feature of a bag its tiles' mean.

    Positions, sizes, padding and clinical variables stay.
    """
    if isinstance(model, SlideTransformer):
        pixels = sample[:, : model.in_chans].mean(dim=(2, 3), keepdim=True).expand(-1, -1, *sample.shape[2:])
        return torch.cat([pixels, sample[:, model.in_chans :]], dim=1)
    if isinstance(model, CaseTransformer):
        return _empty_case(model, sample)
    if not isinstance(model, BagTransformer):
        return sample.mean(dim=tuple(range(2, sample.ndim)), keepdim=True).expand_as(sample)
    mean = sample.where(sample[..., -1:].isfinite(), torch.nan)[..., : model.in_features].nanmean(1, keepdim=True)
    return torch.cat([mean.expand(-1, sample.shape[1], -1), sample[..., model.in_features :]], dim=2)


def _empty_case(model: CaseTransformer, sample: Tensor) -> Tensor:
    """Replace the pixels of each image (B, R, F + 3) by the mean of their channel; padding stays."""
    empty = sample.clone()
    for row in empty.flatten(0, 1):
        if not row[TOKENIZER].isnan():
            shape = model.image_shapes[int(row[TOKENIZER])]
            pixels = row[: math.prod(shape)].view(shape[0], -1)
            pixels.copy_(pixels.mean(dim=1, keepdim=True).expand_as(pixels))
    return empty


def integrated_gradients(
    model: Classifier,
    entry: EncoderInput,
    sample: Tensor,
    odds: LogOdds,
    logits: Tensor,
    target: int,
    *,
    steps: int = STEPS,
) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) over the tokens as they enter the encoder.

    The tokens move on a straight line from those of an empty sample to those of this one, and each is credited with
    its mean slope along the line; together they make up the whole gain (completeness). Works for every attention.

    Args:
        model: In evaluation mode.
        entry: From :func:`~softfree.saliency.activations.encoder_input`.
        sample: The sample itself, (B, ...).
        odds: Turns logits into the log odds to explain.
        logits: (B, K) of the sample.
        target: The class.
        steps: Of the integral (midpoint rule); each is a forward and a backward pass.

    Returns:
        (B, N) for the tokens of the grid, 0 for padded tokens. Their sum is the log odds: see
        :func:`distribute_remainder`, which also distributes the error of the finite number of steps.
    """
    start = encoder_input(model, empty_sample(model, sample)).tokens
    path = entry.tokens - start
    fractions = ((step + 0.5) / steps for step in range(steps))
    slopes = sum(_slope(model, entry, start + fraction * path, odds, target) for fraction in fractions) / steps
    assert isinstance(slopes, Tensor)
    values = (slopes * path).sum(-1)[:, model.num_prefix_tokens :]
    return distribute_remainder(values.double(), odds(logits.double(), target), patch_mask(model, entry))


def distribute_remainder(values: Tensor, total: Tensor, mask: Tensor | None = None) -> Tensor:
    """Distribute evenly over the real tokens what their values (B, N) lack of a total (B,).

    No token can claim this remainder, such as the log odds of an empty sample. The order of the tokens and their
    differences stay as they are.
    """
    real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    values = values * real
    remainder = (total - values.sum(dim=1)) / real.sum(dim=1).clamp(min=1)
    return values + remainder.unsqueeze(1) * real


def _slope(model: Classifier, entry: EncoderInput, tokens: Tensor, odds: LogOdds, target: int) -> Tensor:
    """Gradient of the log odds with respect to the tokens, (B, P + N, C)."""
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        now = entry._replace(tokens=tokens)
        total = odds(classify(model, now, run_blocks(model, now)), target).sum()
        (gradient,) = torch.autograd.grad(total, tokens)
    return gradient


def _compute(forward: ForwardPass, request: MapRequest) -> Tensor:
    return integrated_gradients(
        forward.model, forward.entry, forward.sample, request.odds, forward.logits, request.target
    )


INTEGRATED = Method(
    title="Integrated gradients",
    meaning=(
        "what each token adds to the log odds of the class on a path from an empty sample, all of whose pixels are "
        "the mean, to this one. The log odds of the empty sample are distributed evenly, so that the values sum to "
        "the log odds."
    ),
    compute=_compute,
    uses_empty_sample=True,
)
