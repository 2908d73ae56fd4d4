"""Deletion and insertion curves: tests of whether a map ranks the tokens as the model uses them.

Deletion removes tokens from the image, those with the highest values first; with a good map the class falls at once.
Insertion adds them to an empty image, and with a good map the class rises at once (Petsiuk et al. 2018, RISE,
arXiv:1806.07421; first with pixels: Samek et al. 2017, arXiv:1509.06321).

- A token is removed from the *pixels*, so that every attention sees the same images. Its patch becomes the image's
  mean, which removes coarse and fine structure; or it is taken from a blurred copy, which adds no edges, but which a
  model may mistake for a finding.
- The curve follows the *probability* of the class, not its logit: it has the same range in every model, so that areas
  can be averaged and compared, and it is what users see. It says little if a model stays confident whatever is removed.
- Each area is compared with that of *random orders*: an image with few tokens left is unlike any training image, and
  its probability falls for any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from softfree_lab.studies.options import Removal
from softfree_runtime.core.errors import UserError, unknown_name

ScoreFn = Callable[[Tensor], np.ndarray]
"""From images (n, C, H, W) to the probability of the class, (n,)."""


class Curves(NamedTuple):
    """Probabilities after each step of removing and of inserting tokens, (steps + 1,)."""

    deletion: np.ndarray
    insertion: np.ndarray


def without_tokens(sample: Tensor, patch: Sequence[int], removal: Removal = "mean") -> Tensor:
    """Return a sample (C, *sides) with every token removed.

    Args:
        sample: Preprocessed sample.
        patch: Sides of a token in pixels.
        removal: "mean" of each channel, or "blur" by a Gaussian whose standard deviation is the side of a token.
    """
    if removal == "mean":
        return sample.mean(dim=tuple(range(1, sample.ndim)), keepdim=True).expand_as(sample)
    if removal != "blur":
        raise unknown_name("removal", removal, ("mean", "blur"))
    return torch.from_numpy(gaussian_filter(sample.numpy(), (0, *patch), mode="nearest"))


class Perturbed:
    """A sample with some of its tokens removed.

    Args:
        score_fn: Function that scores images.
        sample: (C, *sides), with all its tokens.
        blank: The same without tokens, from :func:`without_tokens`.
        patch: Sides of a token in pixels.
        grid: Number of tokens along each side.
        steps: Steps of the curves, closer together at both ends, where a small finding disappears or appears.
        batch_size: Images per batch.
    """

    def __init__(
        self,
        score_fn: ScoreFn,
        sample: Tensor,
        blank: Tensor,
        patch: Sequence[int],
        grid: Sequence[int],
        *,
        steps: int = 16,
        batch_size: int = 16,
    ) -> None:
        if steps < 2:
            raise UserError(f"--steps {steps}: expected 2 or more, such as 16")
        self.score_fn, self.sample, self.blank = score_fn, sample, blank
        self.patch, self.grid, self.batch_size = tuple(patch), tuple(grid), batch_size
        self.tokens = int(np.prod(self.grid))
        shares = (1 - np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
        self.counts = np.rint(self.tokens * shares).astype(int)

    @property
    def shares(self) -> np.ndarray:
        """Share of the tokens removed or inserted after each step, (steps + 1,)."""
        return self.counts / self.tokens

    def curves(self, values: np.ndarray, seed: int = 0) -> Curves:
        """Compute the curves of a map, highest values first; equal values are in random order."""
        chance = np.random.default_rng(seed).permutation(self.tokens)
        order = np.lexsort((chance, -values.ravel()))
        return Curves(self.kept(order[::-1], self.tokens - self.counts), self.kept(order, self.counts))

    def random(self, orders: int = 3, seed: int = 0) -> np.ndarray:
        """Return the mean insertion curve of random orders; reversed, it is the deletion curve."""
        rng = np.random.default_rng(seed)
        return np.mean([self.kept(rng.permutation(self.tokens), self.counts) for _ in range(orders)], axis=0)

    def area(self, curve: np.ndarray) -> float:
        """Area under a curve over the share of tokens, from 0 to 1."""
        return float(np.trapezoid(curve, self.shares))

    def kept(self, order: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Score the images that keep only the first tokens of an order, one for each count."""
        rank = np.empty(self.tokens, dtype=int)
        rank[order] = np.arange(self.tokens)
        inner = [count for count in counts if 0 < count < self.tokens]
        batches = [inner[start : start + self.batch_size] for start in range(0, len(inner), self.batch_size)]
        scores = iter([float(score) for batch in batches for score in self.score_fn(self._images(rank, batch))])
        empty, full = self._ends
        return np.array([empty if count == 0 else full if count == self.tokens else next(scores) for count in counts])

    def _images(self, rank: np.ndarray, counts: Sequence[int]) -> Tensor:
        present = (rank < np.asarray(counts)[:, None]).reshape(-1, 1, *self.grid)
        for axis, side in enumerate(self.patch, start=2):
            present = present.repeat(side, axis)
        inside = tuple(slice(side) for side in self.sample.shape[1:])  # the last patches may extend beyond it
        return torch.where(torch.from_numpy(present[:, :, *inside]), self.sample, self.blank)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        empty, full = self.score_fn(torch.stack([self.blank, self.sample]))
        return float(empty), float(full)
