"""Occlusion: what the log odds of a class lose when a part of the sample is emptied (Zeiler and Fergus 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softfree.explain.activations import Entry, classify, enter, patch_mask, through
from softfree.explain.integrated_gradients import empty, shared_out
from softfree.explain.log_odds import LogOdds
from softfree.models.classifier import Classifier

MEANING = (
    "Occlusion: what the log odds of the class lose when a window of tokens becomes empty, all its pixels the mean; it "
    "sees no two windows that stand in for each other. What no single window takes away is shared out evenly, so that "
    "the values sum to the log odds."
)
_WINDOWS = {1: 64, 2: 8, 3: 4}  # along each side, by the number of sides: 64 in all
_TOGETHER = 8192  # tokens that are computed at once, about


@torch.no_grad()
def occlusion(model: Classifier, entry: Entry, sample: Tensor, odds: LogOdds, whole: Tensor, target: int) -> Tensor:
    """Empty one window of tokens after the other.

    Args:
        model: in evaluation mode.
        entry: what :func:`~softfree.explain.activations.enter` gave of one sample.
        sample: of which it gave that, (1, ...).
        odds: what is explained.
        whole: logits (1, K) of the sample.
        target: the class.

    Returns:
        (1, N) for the tokens of the grid: a token's part of what is lost with the window that it lies in, 0 for padded
        tokens. Their sum is the log odds: see :func:`~softfree.explain.integrated_gradients.shared_out`.
    """
    start, prefix = enter(model, empty(model, sample)), model.num_prefix_tokens
    window = windows(entry.grid or (entry.tokens.shape[1] - prefix,)).to(entry.tokens.device)
    number = int(window.max()) + 1
    base, lost = odds(whole.double(), target), []
    for some in torch.arange(number, device=window.device).split(max(1, _TOGETHER // len(window))):
        hidden = torch.zeros(len(some), prefix + len(window), 1, dtype=torch.bool, device=window.device)
        hidden[:, prefix:, 0] = window == some[:, None]
        tokens = torch.where(hidden, start.tokens, entry.tokens)
        mask = None if entry.mask is None else entry.mask.expand(len(some), -1)
        now = Entry(tokens, mask, entry.grid)
        lost.append(base - odds(classify(model, now, through(model, now)).double(), target))
    mask = patch_mask(model, entry)
    real = torch.ones_like(window) if mask is None else mask[0].long()
    size = torch.zeros_like(window[:number]).index_add(0, window, real).clamp(min=1)
    return shared_out((torch.cat(lost) / size)[window].unsqueeze(0), base, mask)


def windows(grid: Sequence[int]) -> Tensor:
    """Number the windows: for each token of a grid, (N,), the one that it lies in; of few tokens each has its own."""
    most = _WINDOWS[len(grid)]
    sides = [torch.arange(side) // -(-side // most) for side in grid]
    number = sides[0]
    for side in sides[1:]:
        number = number[..., None] * (int(side[-1]) + 1) + side
    return number.flatten()
