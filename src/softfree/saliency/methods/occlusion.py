"""Occlusion: how much the log odds of a class drop when part of the sample is emptied (Zeiler and Fergus 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softfree.models.case import CaseTransformer
from softfree.models.classifier import Classifier
from softfree.saliency.activations import EncoderInput, classify, encoder_input, patch_mask, run_blocks
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method
from softfree.saliency.methods.integrated_gradients import distribute_remainder, empty_sample

_WINDOWS = {1: 64, 2: 8, 3: 4}  # along each side, by the number of sides: 64 in all
_TOGETHER = 8192  # about how many tokens are computed at once


@torch.no_grad()
def occlusion(
    model: Classifier, entry: EncoderInput, sample: Tensor, odds: LogOdds, logits: Tensor, target: int
) -> Tensor:
    """Empty one window of tokens after another.

    Args:
        model: In evaluation mode.
        entry: From :func:`~softfree.saliency.activations.encoder_input`, of one sample.
        sample: The sample itself, (1, ...).
        odds: Turns logits into the log odds to explain.
        logits: (1, K) of the sample.
        target: The class.

    Returns:
        (1, N) for the tokens of the grid: each token's share of the drop of its window, 0 for padded tokens. Their sum
        is the log odds: see :func:`~softfree.saliency.methods.integrated_gradients.distribute_remainder`.
    """
    start, prefix = encoder_input(model, empty_sample(model, sample)), model.num_prefix_tokens
    window = _windows_of(model, entry, sample).to(entry.tokens.device)
    count = int(window.max()) + 1
    total, drops = odds(logits.double(), target), []
    for chunk in torch.arange(count, device=window.device).split(max(1, _TOGETHER // len(window))):
        hidden = torch.zeros(len(chunk), prefix + len(window), 1, dtype=torch.bool, device=window.device)
        hidden[:, prefix:, 0] = window == chunk[:, None]
        tokens = torch.where(hidden, start.tokens, entry.tokens)
        mask = None if entry.mask is None else entry.mask.expand(len(chunk), -1)
        emptied = EncoderInput(tokens, mask, entry.grid)
        drops.append(total - odds(classify(model, emptied, run_blocks(model, emptied)).double(), target))
    mask = patch_mask(model, entry)
    real = torch.ones_like(window) if mask is None else mask[0].long()
    size = torch.zeros_like(window[:count]).index_add(0, window, real).clamp(min=1)
    return distribute_remainder((torch.cat(drops) / size)[window].unsqueeze(0), total, mask)


def _windows_of(model: Classifier, entry: EncoderInput, sample: Tensor) -> Tensor:
    """Window number of each token (N,): windows lie within an image of a case."""
    if not isinstance(model, CaseTransformer):
        return windows(entry.grid or (entry.tokens.shape[1] - model.num_prefix_tokens,))
    numbers: list[Tensor] = []
    for grid in model.grids(sample[0]):
        numbers.append(windows(grid) + (int(numbers[-1].max()) + 1 if numbers else 0))
    return torch.cat(numbers)


def windows(grid: Sequence[int]) -> Tensor:
    """Window number of each token of a grid, (N,); on a small grid each token is its own window."""
    most = _WINDOWS[len(grid)]
    sides = [torch.arange(side) // -(-side // most) for side in grid]
    number = sides[0]
    for side in sides[1:]:
        number = number[..., None] * (int(side[-1]) + 1) + side
    return number.flatten()


def _compute(forward: ForwardPass, request: MapRequest) -> Tensor:
    return occlusion(forward.model, forward.entry, forward.sample, request.odds, forward.logits, request.target)


OCCLUSION = Method(
    title="Occlusion",
    meaning=(
        "how much the log odds of the class drop when a window of tokens is emptied, all its pixels the mean; two "
        "windows that can replace each other both stay small. What no single window takes away is distributed evenly,"
        " so that the values sum to the log odds."
    ),
    compute=_compute,
    uses_empty_sample=True,
    keeps_layers=False,
)
