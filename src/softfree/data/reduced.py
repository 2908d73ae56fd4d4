"""Sizes, small copies and clinical variables of samples, collected while a model reads them."""

from __future__ import annotations

import math

import numpy as np
import torch

from softfree.data.audit.near_duplicates import SIDE as THUMBNAIL
from softfree.data.audit.near_duplicates import thumbnail
from softfree.data.modalities.base import HasVariables, Preprocessing
from softfree.data.modalities.registry import MODALITIES
from softfree.data.variables import design

MAX_ROWS = 5_000
"""Maximum number of samples with a small copy for a regression; more are subsampled."""


class Reduced:
    """Collector of sizes, small copies and thumbnails of samples read in any order, by any thread.

    Args:
        count: Number of samples.
        preprocessing: Preprocessing in evaluation; training samples may have their own size.
        copies: Numbers of the samples to keep a small copy of.
        thumbnails: Whether to keep thumbnails of images, for finding copies.

    Attributes:
        sizes: float64 ``(count, S)``, NaN where none came.
        copies: float32 vectors by number.
        variables: Encoded clinical variables, float32 ``(count, V)``, NaN where unknown or none came; None without any.
        thumbnails: uint8 ``(count, SIDE, SIDE)``, 0 where none came; None where none are kept.
    """

    def __init__(
        self, count: int, preprocessing: Preprocessing, copies: np.ndarray, *, thumbnails: bool = True
    ) -> None:
        self.sizes = np.full((count, MODALITIES[preprocessing.kind].axes), math.nan)
        self.copies: dict[int, np.ndarray] = {}
        self.variables: np.ndarray | None = None
        self.thumbnails: np.ndarray | None = None
        if isinstance(preprocessing, HasVariables) and preprocessing.variables:
            self.variables = np.full((count, len(preprocessing.variables)), math.nan, np.float32)
            self._read = np.zeros(count, bool)
        if thumbnails and preprocessing.kind == "image":
            self.thumbnails = np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint8)
        self._preprocessing, self._wanted = preprocessing, frozenset(copies.tolist())

    def __call__(self, index: int, sample: torch.Tensor, size: tuple[int, ...]) -> None:
        """Collect the data of one sample."""
        self.sizes[index] = size
        if index in self._wanted and (copy := self._preprocessing.small_copy(sample)) is not None:
            self.copies[index] = copy
        if self.variables is not None:
            assert isinstance(self._preprocessing, HasVariables)
            self.variables[index] = self._preprocessing.variable_values(sample)[0].numpy()
            self._read[index] = True
        if self.thumbnails is not None:
            self.thumbnails[index] = thumbnail(sample.permute(1, 2, 0).numpy())

    def design(self) -> np.ndarray:
        """Return the columns (count, P) of a regression on clinical variables, NaN for samples that did not come."""
        assert self.variables is not None
        assert isinstance(self._preprocessing, HasVariables)
        columns = design(self._preprocessing.clinical_variables, self.variables)
        columns[~self._read] = math.nan
        return columns

    def take(self, positions: np.ndarray) -> Reduced:
        """Return what came of some of the samples, without thumbnails."""
        part = Reduced(len(positions), self._preprocessing, np.arange(0), thumbnails=False)
        part.sizes = self.sizes[positions]
        part.copies = {new: self.copies[old] for new, old in enumerate(positions.tolist()) if old in self.copies}
        if self.variables is not None:
            part.variables, part._read = self.variables[positions], self._read[positions]
        return part


def drawn(count: int, seed: int) -> np.ndarray:
    """Return the sorted numbers of the samples whose small copies are kept."""
    if count <= MAX_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng((seed, count)).choice(count, MAX_ROWS, replace=False))
