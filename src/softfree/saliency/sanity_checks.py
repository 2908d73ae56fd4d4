"""Whether a map looks at the model at all: the same map of a model whose weights mean nothing.

Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv:1810.03292. A map that stays as it was with random weights
shows the image, not the model. Weights are made meaningless from the head down to the stem, one part after the other.
Those of each tensor are shuffled rather than drawn anew, so that activations keep about the size that they had.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import cast

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from softfree.models.classifier import Classifier

HEAD, ALL = "head", "all"


def cascade(model: Classifier, seed: int = 0) -> Iterator[tuple[str, Classifier]]:
    """Yield the model with more and more of its weights shuffled.

    Args:
        model: Stays as it is.
        seed: Of the shuffling.

    Yields:
        What was shuffled last, and the model: "head"; "blocks.11" and the norm behind it, and so on down to
        "blocks.0"; "all" with tokenizer and positions. It is one model, changed further at each step.
    """
    rng = torch.Generator().manual_seed(seed)
    changed = deepcopy(model)
    done: set[int] = set()
    blocks = list(cast(nn.Sequential, changed.blocks))
    parts: list[tuple[str, list[nn.Module]]] = [(HEAD, [changed.head])]
    for number in reversed(range(len(blocks))):
        norms = [changed.norm, changed.fc_norm, changed.pooling] if number == len(blocks) - 1 else []
        parts.append((f"blocks.{number}", [*norms, blocks[number]]))
    parts.append((ALL, [changed]))
    for name, modules in parts:
        for parameter in (one for module in modules for one in module.parameters()):
            if id(parameter) not in done:
                _shuffle(parameter, rng)
                done.add(id(parameter))
        yield name, changed


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the rank correlation of two maps without its sign.

    The sign says nothing here: a shuffled head may turn for into against.
    """
    return abs(rank_correlation(one, other))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Compute Spearman's rank correlation of two maps; 0 where one of them is the same everywhere."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


@torch.no_grad()
def _shuffle(parameter: nn.Parameter, rng: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=rng).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))
