"""Whether a sample is unlike the training samples: the Mahalanobis distance of its mean token from theirs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from softfree.evaluation.conformal import patient_quantile
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing

RATE = 0.05
"""Share of new samples like those of training that may be called unusual."""
MAX_SAMPLES = 1024
"""Number of training samples from which their distribution is estimated."""


@dataclass(frozen=True, eq=False)
class TrainingDistribution:
    """Mean and covariance of the training samples' mean tokens, scaled so that a distance above 1 is unusual.

    Attributes:
        mean: (C,) float32.
        whitening: (C, C) float32; the distance of a mean token x is the norm of ``whitening @ (x - mean)``.
        rate: Share of validation patients whose samples lie beyond 1.
    """

    mean: np.ndarray
    whitening: np.ndarray
    rate: float = RATE

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Return the distances (n,) of mean tokens (n, C)."""
        centered = np.asarray(tokens, dtype=np.float64) - self.mean
        return np.linalg.norm(centered @ np.asarray(self.whitening, dtype=np.float64).T, axis=1)

    @classmethod
    def fit(
        cls, training: np.ndarray, validation: np.ndarray, patients: np.ndarray, rate: float = RATE
    ) -> TrainingDistribution | None:
        """Estimate the covariance on training samples, and scale it by the distances of validation samples.

        Args:
            training: Mean tokens (n, C); rows with NaN are left out.
            validation: Mean tokens (m, C) of samples that the model was not trained on; likewise.
            patients: Their patient numbers, (m,).
            rate: Share of new samples that may be called unusual. With fewer validation patients than
                ``1 / rate - 1``, the largest of their distances is the limit, and the share is ``1 / (patients + 1)``.

        Returns:
            None with fewer than two training samples or no validation sample.
        """
        from sklearn.covariance import LedoitWolf

        training = training[np.isfinite(training).all(axis=1)].astype(np.float64)
        known = np.isfinite(validation).all(axis=1)
        if len(training) < 2 or not known.any():
            return None
        mean = training.mean(axis=0)
        scale = training.std(axis=0) + 1e-6 * (1 + np.abs(mean))
        precision = LedoitWolf(assume_centered=True).fit((training - mean) / scale).precision_
        try:
            root = np.linalg.cholesky(precision)
        except np.linalg.LinAlgError:  # two samples, or copies of two: only the variances are known
            root = np.eye(len(mean))
        whole = cls(mean, root.T / scale)
        distances = whole.distance(validation[known])
        limit = patient_quantile(distances, patients[known], 1 - rate)
        if not np.isfinite(limit):
            limit, rate = float(distances.max()), 1 / (len(np.unique(patients[known])) + 1)
        limit *= 1 + 1e-4  # rounding must not decide about the sample at the limit
        whitening = whole.whitening / max(limit, np.finfo(np.float32).tiny)
        return cls(mean.astype(np.float32), whitening.astype(np.float32), rate)

    def write(self, path: Path) -> None:
        """Write the distribution as safetensors."""
        tensors = {"mean": self.mean, "whitening": np.ascontiguousarray(self.whitening)}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"rate": json.dumps(self.rate)})

    @classmethod
    def read(cls, path: Path) -> TrainingDistribution:
        """Read the result of :meth:`write`.

        Raises:
            UserError: Not such a file.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                mean, whitening = file.get_tensor("mean"), file.get_tensor("whitening")
                rate = float(json.loads((file.metadata() or {})["rate"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({str(error)[:150]}); copy the run again") from None
        if mean.ndim != 1 or whitening.shape != (len(mean), len(mean)):
            shapes = f"{mean.shape} and {whitening.shape}"
            raise UserError(f"{path} has arrays of shapes {shapes}; expected (C,) and (C, C); copy the run again")
        return cls(mean, whitening, rate)


def is_unusual(distance: pd.Series) -> pd.Series:
    """Return whether distances are above 1; missing where they are."""
    return (distance > 1).astype("boolean").where(distance.notna())


class TokenMeans:
    """Collects mean tokens of a dataset, one array (n, C) for each member of an ensemble; NaN for samples without."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.values: list[np.ndarray] = []

    def __call__(self, indices: Sequence[int], means: Sequence[np.ndarray]) -> None:
        """Store the mean tokens of some samples."""
        if not self.values:
            self.values = [np.full((self.count, tokens.shape[1]), np.nan, dtype=np.float32) for tokens in means]
        for values, tokens in zip(self.values, means, strict=True):
            values[list(indices)] = tokens


class Distances:
    """Collects distances of a dataset: the mean over the members of an ensemble; NaN for samples without."""

    def __init__(self, distributions: Sequence[TrainingDistribution], count: int) -> None:
        self.distributions = distributions
        self.values = np.full(count, np.nan)

    def columns(self, failed: Collection[int]) -> pd.DataFrame:
        """Return ``distance`` and ``unusual``, whether it is above 1; empty for failed samples."""
        self.values[list(failed)] = np.nan
        distance = pd.Series(self.values)
        return pd.DataFrame({"distance": distance, "unusual": is_unusual(distance)})

    def __call__(self, indices: Sequence[int], means: Sequence[np.ndarray]) -> None:
        """Store the distances of some samples."""
        own = [distribution.distance(m) for distribution, m in zip(self.distributions, means, strict=True)]
        self.values[list(indices)] = np.mean(own, axis=0)
