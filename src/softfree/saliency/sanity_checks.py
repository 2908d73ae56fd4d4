"""Whether a map depends on the model at all: it is compared with the map of a model with random weights.

Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv:1810.03292. A map that does not change with random weights
shows the image, not the model. Weights are randomized from the head down to the stem, one part after another. Each
tensor is shuffled rather than initialized again, so that activations keep about the same magnitude.
"""

from __future__ import annotations

import itertools
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
        model: Not changed.
        seed: Seed of the shuffling.

    Yields:
        What was shuffled last, and the model: "head"; "blocks.11" with the norm after it, and so on down to
        "blocks.0"; "all" with tokenizer and positions. It is a single model, changed further at each step.
    """
    rng = torch.Generator().manual_seed(seed)
    changed = deepcopy(model)
    done: set[int] = set()
    blocks = list(cast(nn.Sequential, changed.blocks))
    parts: list[tuple[str, list[nn.Module]]] = [(HEAD, [changed.head])]
    for number in reversed(range(len(blocks))):
        norms = [changed.norm, changed.fc_norm] if number == len(blocks) - 1 else []
        parts.append((f"blocks.{number}", [*norms, blocks[number]]))
    parts.append((ALL, [changed]))
    for name, modules in parts:
        for parameter in itertools.chain.from_iterable(module.parameters() for module in modules):
            if id(parameter) not in done:
                _shuffle(parameter, rng)
                done.add(id(parameter))
        yield name, changed


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the rank correlation of two maps without its sign.

    The sign means nothing here: a shuffled head may turn evidence for a class into evidence against it.
    """
    return abs(rank_correlation(first, second))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Compute Spearman's rank correlation of two maps; 0 if one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


@torch.no_grad()
def _shuffle(parameter: nn.Parameter, rng: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=rng).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))
