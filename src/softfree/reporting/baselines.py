"""Baselines: regressions on the size of a sample, on a small copy of it, and on its clinical variables.

They are logistic, or ridge regressions for numbers. A model that does not beat the second has not learned from fine
detail, or fine detail does not help; one that hardly beats the first may have learned the size; and one that does not
beat the third gains nothing from the images.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import MODALITIES
from softfree.data.reduced import MAX_ROWS, Reduced
from softfree.data.table import Table
from softfree_runtime.core.files import replacing
from softfree_runtime.core.task import Task

STRENGTHS = (1e-3, 1e-2, 1e-1)  # C of the regression; the best on validation is used
MAX_CLASSES = 50
"""No baselines are fitted for more classes: it takes too long, with few samples per class."""
VARIABLES = "variables"
"""Name of the regression on clinical variables."""
IMAGES = "images"
"""Name of the model itself without its clinical variables, which is compared like a baseline."""
_STEPS = 300
_QUANTILES = np.linspace(0.1, 0.9, 9)
_FLAT = 1e-9


@dataclass(frozen=True)
class Regression:
    """One logistic regression per class, or a ridge regression of a number, on standardized features.

    Attributes:
        words: Description of its inputs.
        edges: Bin edges of each size feature; empty for small copies.
        mean, scale: Mean and standard deviation of the features, ``(P,)``.
        weights: ``(K, P)``.
        bias: ``(K,)``.
    """

    words: str
    edges: tuple[np.ndarray, ...]
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, numbers: np.ndarray, task: Task) -> np.ndarray:
        """Map sizes ``(n, S)`` or small copies ``(n, P)`` to probabilities ``(n, K)``, or numbers; NaN stays NaN."""
        features = _bin(numbers, self.edges) if self.edges else numbers
        if task.numeric:
            return self.linear(features)
        probabilities = self.one_vs_rest(features)
        if task.kind == "binary":
            return np.stack([1 - probabilities[:, 1], probabilities[:, 1]], axis=1)
        return probabilities if not task.exclusive else probabilities / probabilities.sum(axis=1, keepdims=True)

    def one_vs_rest(self, features: np.ndarray) -> np.ndarray:
        """Return the probability of each class against the rest ``(n, K)`` for features ``(n, P)``."""
        return np.asarray(expit(self.linear(features)))

    def linear(self, features: np.ndarray) -> np.ndarray:
        """Return the log odds of each class, or the number, ``(n, K)`` for features ``(n, P)``."""
        return np.asarray((features - self.mean) / self.scale @ self.weights.T + self.bias)


@dataclass(frozen=True)
class Baselines:
    """The baselines of a run.

    Attributes:
        fitted: Regressions by name: ``size``, ``copy`` and ``variables``.
        missing: Why one is missing, one sentence each.
    """

    fitted: Mapping[str, Regression]
    missing: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write ``baselines.safetensors``."""
        arrays: dict[str, np.ndarray] = {}
        for name, regression in self.fitted.items():
            for field in ("mean", "scale", "weights", "bias"):
                arrays[f"{name}.{field}"] = np.ascontiguousarray(getattr(regression, field), dtype=np.float64)
            arrays |= {f"{name}.edges.{number}": edges for number, edges in enumerate(regression.edges)}
        metadata = {
            "words": {name: regression.words for name, regression in self.fitted.items()},
            "missing": list(self.missing),
        }
        with replacing(path) as temporary:
            save_file(arrays, temporary, metadata={"baselines": json.dumps(metadata)})


def read_baselines(path: Path) -> Baselines | None:
    """Read a file of :meth:`Baselines.write`; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            metadata = json.loads(file.metadata()["baselines"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        fitted = {name: _from_arrays(name, words, arrays) for name, words in metadata["words"].items()}
        return Baselines(fitted, tuple(metadata["missing"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _from_arrays(name: str, words: str, arrays: Mapping[str, np.ndarray]) -> Regression:
    count = sum(key.startswith(f"{name}.edges.") for key in arrays)
    edges = tuple(arrays[f"{name}.edges.{number}"] for number in range(count))
    mean, scale, weights, bias = (arrays[f"{name}.{field}"] for field in ("mean", "scale", "weights", "bias"))
    return Regression(words, edges, mean, scale, weights, bias)


def fit_baselines(splits: Mapping[str, Table], reduced: Mapping[str, Reduced], kind: str) -> Baselines:
    """Fit the baselines on the reduced training samples; the regularization strength is chosen on validation.

    Args:
        splits: Rows of ``train`` and ``val``.
        reduced: Their reduced samples.
        kind: Modality of the samples.
    """
    task, modality = splits["train"].task, MODALITIES[kind]
    if len(task.classes) > MAX_CLASSES:
        return Baselines({}, (f"none is fitted for more than {MAX_CLASSES} classes",))
    fitted, missing = {}, []
    sizes = {split: _with_targets(dict(enumerate(reduced[split].sizes)), splits[split]) for split in splits}
    if len(np.unique(sizes["train"].numbers, axis=0)) > 1:
        edges = _edges(sizes["train"].numbers)
        train, val = (sizes[split]._replace(numbers=_bin(sizes[split].numbers, edges)) for split in ("train", "val"))
        fitted["size"] = _fit(f"{modality.size} alone", task, train, val, edges)
    else:
        missing.append("none on the size alone: all training samples have one size")
    if modality.small_copy:
        copies = {split: _with_targets(reduced[split].copies, splits[split]) for split in splits}
        rows, all_rows = len(copies["train"].numbers), len(splits["train"].frame)
        subset = f" ({rows:,} of {all_rows:,} training samples, at random)" if all_rows > MAX_ROWS else ""
        fitted["copy"] = _fit(f"{modality.small_copy}{subset}", task, copies["train"], copies["val"])
    else:
        missing.append(f"none on a small copy: {modality.plural} have none")
    if reduced["train"].variables is not None:
        known = {split: _with_targets(dict(enumerate(reduced[split].design())), splits[split]) for split in splits}
        fitted[VARIABLES] = _fit("the clinical variables alone", task, known["train"], known["val"])
    return Baselines(fitted, tuple(missing))


class BaselinePredictions:
    """Predictions of baselines for samples that a model reads one by one, in any order.

    Args:
        baselines: Baselines fitted on the training samples of a run.
        task: Task of the run.
        preprocessing: Preprocessing of the run.
        count: Number of samples.
        thumbnails: Whether to keep thumbnails, to find near duplicates.
    """

    def __init__(
        self, baselines: Baselines, task: Task, preprocessing: Preprocessing, count: int, *, thumbnails: bool = False
    ) -> None:
        self.reduced = Reduced(count, preprocessing, np.arange(0), thumbnails=thumbnails)
        self._baselines, self._task, self._preprocessing = baselines, task, preprocessing
        self._copies = np.full((count, len(task.classes)), np.nan)

    def __call__(self, index: int, sample: torch.Tensor, size: tuple[int, ...]) -> None:
        """Predict one sample; its small copy is not kept."""
        self.reduced(index, sample, size)
        if (regression := self._baselines.fitted.get("copy")) is not None:
            copy = self._preprocessing.small_copy(sample)
            assert copy is not None
            self._copies[index] = regression.probabilities(copy[None], self._task)[0]

    def columns(self) -> pd.DataFrame:
        """Return the probabilities as columns of ``predictions.csv``."""
        probabilities = {}
        if (regression := self._baselines.fitted.get("size")) is not None:
            probabilities["size"] = regression.probabilities(self.reduced.sizes, self._task)
        if "copy" in self._baselines.fitted:
            probabilities["copy"] = self._copies
        if (regression := self._baselines.fitted.get(VARIABLES)) is not None:
            probabilities[VARIABLES] = regression.probabilities(self.reduced.design(), self._task)
        columns = {
            column_of(name, class_name): values[:, k]
            for name, values in probabilities.items()
            for k, class_name in enumerate(self._task.classes)
        }
        return pd.DataFrame(columns, index=range(len(self._copies)))


def column_of(baseline: str, class_name: str) -> str:
    """Return the name of the column of ``predictions.csv`` with a baseline's probability of a class."""
    return f"baseline_{baseline}_{class_name}"


class _Labeled(NamedTuple):
    """Features (n, P) of samples, and their targets, as described in :class:`Task`."""

    numbers: np.ndarray
    targets: np.ndarray


def _with_targets(numbers: Mapping[int, np.ndarray], table: Table) -> _Labeled:
    complete = sorted(index for index, row in numbers.items() if np.isfinite(row).all())
    return _Labeled(np.stack([numbers[index] for index in complete]), table.targets[complete])


def _fit(words: str, task: Task, train: _Labeled, val: _Labeled, edges: tuple[np.ndarray, ...] = ()) -> Regression:
    mean, scale = (np.asarray(statistic(train.numbers, axis=0, dtype=np.float64)) for statistic in (np.mean, np.std))
    scale[scale < _FLAT] = 1.0
    standardized = ((train.numbers - mean) / scale).astype(train.numbers.dtype)
    if task.numeric:
        return _fit_number(words, train.targets, standardized, val, (mean, scale, edges))
    shape = (len(STRENGTHS), len(task.classes))
    weights, bias = np.zeros((*shape, standardized.shape[1])), np.zeros(shape)
    for k in range(shape[1]) if task.kind != "binary" else task.scored:
        known, present = _truth(train.targets, k, task)
        for number, (weight, intercept) in enumerate(_regressions(standardized[known], present)):
            weights[number, k], bias[number, k] = weight, intercept
    candidates = [Regression(words, edges, mean, scale, *pair) for pair in zip(weights, bias, strict=True)]
    return max(candidates, key=lambda regression: _auroc(regression.one_vs_rest(val.numbers), val.targets, task))


def _fit_number(
    words: str,
    targets: np.ndarray,
    standardized: np.ndarray,
    val: _Labeled,
    features: tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]],
) -> Regression:
    """Fit ridge regressions of a number; the strength with the least absolute error on validation is used."""
    mean, scale, edges = features
    candidates = []
    for strength in STRENGTHS:
        model = Ridge(alpha=1 / strength).fit(standardized.astype(np.float64), targets)
        candidates.append(Regression(words, edges, mean, scale, model.coef_[None], np.array([model.intercept_])))
    return min(candidates, key=lambda one: np.abs(one.linear(val.numbers)[:, 0] - val.targets).mean())


def _regressions(numbers: np.ndarray, present: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Yield weights and bias for each of the ``STRENGTHS``; the class frequency if only one class is present."""
    if len(np.unique(present)) < 2:
        frequency = (present.sum() + 0.5) / (len(present) + 1)
        yield from [(np.zeros(numbers.shape[1]), float(logit(frequency)))] * len(STRENGTHS)
        return
    model = LogisticRegression(max_iter=_STEPS, tol=1e-3, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is enough
        for strength in STRENGTHS:
            model.set_params(C=strength).fit(numbers, present)
            yield model.coef_[0].copy(), float(model.intercept_[0])


def _auroc(probabilities: np.ndarray, targets: np.ndarray, task: Task) -> float:
    """Return the mean AUROC over classes with positives and negatives among these samples; 0 without any."""
    areas = []
    for k in task.scored:
        known, present = _truth(targets, k, task)
        if 0 < present.sum() < len(present):
            areas.append(roc_auc_score(present, probabilities[known, k]))
    return float(np.mean(areas)) if areas else 0.0


def _truth(targets: np.ndarray, k: int, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples have a known label of class ``k``, and whether these are positive."""
    known = np.ones(len(targets), dtype=bool) if task.exclusive else ~np.isnan(targets[:, k])
    return known, targets[known] == k if task.exclusive else targets[known, k] == 1


def _logarithms(sizes: np.ndarray) -> np.ndarray:
    """Return logarithms of the sides, of their product, and for two sides of height over width: ``(n, F)``."""
    sides = np.log(np.maximum(sizes, 1))
    shape = sides[:, :1] - sides[:, 1:] if sides.shape[1] == 2 else sides[:, :0]
    return np.hstack([sides, sides.sum(axis=1, keepdims=True), shape])


def _edges(sizes: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.unique(np.quantile(column, _QUANTILES, method="nearest")) for column in _logarithms(sizes).T)


def _bin(sizes: np.ndarray, edges: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return logarithms, and whether each is >= and > each edge, so that a single exact size can be learned."""
    numbers = _logarithms(sizes)
    bins = [
        above
        for column, column_edges in zip(numbers.T, edges, strict=True)
        for above in (column[:, None] > column_edges - _FLAT, column[:, None] > column_edges + _FLAT)
    ]
    features = np.hstack([numbers, *bins])
    features[np.isnan(sizes).any(axis=1)] = np.nan
    return features
