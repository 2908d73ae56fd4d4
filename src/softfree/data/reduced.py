"""What little is kept of samples while a model reads them: the size that each had, and a small copy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from softfree.data.audit.near_duplicates import SIDE as THUMBNAIL
from softfree.data.audit.near_duplicates import thumbnail
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.image import ImagePreprocessing

SIDE, DEPTH = 32, 12
NAMES = {
    "image": "32 x 32 pixels",
    "volume": "12 x 12 x 12 voxels",
    "bag": "mean of the features",
}
"""What is left of a sample of each kind; there is no small copy of a slide."""
MOST_ROWS = 5_000
"""Rows of which a small copy is kept for a regression; of more, so many are drawn."""


class Reduced:
    """Collects sizes, small copies and thumbnails of samples that are read one by one, in any order, by any thread.

    Args:
        count: of samples.
        steps: that the samples go through in evaluation; training samples may come at their own size.
        copies: numbers of the samples of which a small copy is kept.
        thumbnails: whether to keep thumbnails of images, by which copies of an image are found.

    Attributes:
        sizes: float64 ``(count, S)``, NaN where none came.
        copies: float32 vectors by number.
        thumbnails: uint8 ``(count, SIDE, SIDE)``, 0 where none came; None where none are kept.
    """

    def __init__(
        self, count: int, preprocessing: Preprocessing, copies: np.ndarray, *, thumbnails: bool = True
    ) -> None:
        self.sizes = np.full((count, _SIDES[preprocessing.kind]), math.nan)
        self.copies: dict[int, np.ndarray] = {}
        self.thumbnails: np.ndarray | None = None
        if thumbnails and preprocessing.kind == "image":
            self.thumbnails = np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint8)
        self._preprocessing, self._wanted = preprocessing, frozenset(copies.tolist())

    def __call__(self, index: int, sample: torch.Tensor, size: tuple[int, ...]) -> None:
        """Keep what is wanted of a sample."""
        self.sizes[index] = size
        if index in self._wanted and self._preprocessing.kind in NAMES:
            self.copies[index] = reduce(sample, self._preprocessing)
        if self.thumbnails is not None:
            self.thumbnails[index] = thumbnail(sample.permute(1, 2, 0).numpy())


_SIDES = {"image": 2, "slide": 2, "volume": 3, "bag": 1}


def reduce(sample: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray:
    """Reduce a prepared sample to a vector as :data:`NAMES` says."""
    if preprocessing.kind == "bag":
        return sample[:, :-3].mean(0).numpy()
    small: Any = F.adaptive_avg_pool3d(sample, DEPTH) if preprocessing.kind == "volume" else None
    if small is None:
        assert isinstance(preprocessing, ImagePreprocessing)
        small = preprocessing.reduced(sample, SIDE)
    return np.ascontiguousarray(small.numpy(), np.float32).ravel()


def drawn(count: int, seed: int) -> np.ndarray:
    """Numbers of the samples whose small copies are kept, sorted."""
    if count <= MOST_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng((seed, count)).choice(count, MOST_ROWS, replace=False))
