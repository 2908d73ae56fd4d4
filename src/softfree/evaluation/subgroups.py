"""Metrics by group: sex, age, scanner, hospital."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from softfree.evaluation.answers import Answers
from softfree.evaluation.comparison import TITLES
from softfree.evaluation.metrics import Metric, measure
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.numbers import number_names

FEW_VALUES = 8
"""A numeric column with more distinct values is split at its quartiles."""
MAX_GROUPS = 20
SITE = "site"
"""A column whose values are names, even if they are numbers."""
SMALL_GROUP, SMALL_CLASS = 30, 10
NOTE = (
    "Each group is evaluated on its own, without correction for multiple comparisons: one in twenty intervals misses "
    "the truth by chance. Overlapping intervals do not show that groups are alike, and small groups cannot show a "
    "difference. Treat what stands out as a question for new data."
)


@dataclass(frozen=True)
class GroupRow:
    """One group of samples.

    Attributes:
        group: The value of the column, or its range.
        n: Number of samples.
        n_positive: Number of positive samples of a binary task, else None.
        patients: Number of patients.
        small: Fewer than 30 patients, or (binary) fewer than 10 samples of a class: the metrics mean little.
        metrics: From :func:`~softfree.evaluation.metrics.measure`.
    """

    group: str
    n: int
    n_positive: int | None
    patients: int
    small: bool
    metrics: dict[str, Metric]


def by_group(
    scores: Answers,
    values: pd.Series,
    thresholds: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    num_bootstrap: int = 2000,
) -> list[GroupRow]:
    """Measure each group of a column on its own; show :data:`NOTE` with the results.

    Args:
        scores: Predictions and true labels.
        values: ``(n,)``, a column of the table, in the order of the scores. More than eight distinct numbers are split
            at their quartiles; empty cells form the group "not given".
        thresholds: As for :func:`~softfree.evaluation.metrics.measure`: the same for all groups, as in practice.
        seed: Seed of the resampling.
        num_bootstrap: Number of resamples.

    Raises:
        UserError: The column has a different length, or more than twenty groups.
    """
    if len(values) != len(scores):
        raise UserError(f"column {values.name!r} has {len(values)} values for {len(scores)} samples: expected one "
                        "for each, in the same order")  # fmt: skip
    return _measured(scores, groups(values), thresholds, seed, num_bootstrap)


def by_fold(
    scores: Answers,
    folds: Sequence[str],
    thresholds: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    num_bootstrap: int = 2000,
) -> list[GroupRow]:
    """Measure each fold of a cross-validation on its own, however many there are; fold 10 comes after fold 9.

    Args:
        scores: Predictions and true labels.
        folds: Name of the fold of each sample ``(n,)``.
        thresholds: As for :func:`~softfree.evaluation.metrics.measure`.
        seed: Seed of the resampling.
        num_bootstrap: Number of resamples.
    """
    names = np.asarray(folds, dtype=str)
    parts = ((name, names == name) for name in sorted(map(str, np.unique(names)), key=_natural))
    return _measured(scores, parts, thresholds, seed, num_bootstrap)


def _measured(
    scores: Answers,
    parts: Iterable[tuple[str, np.ndarray]],
    thresholds: Mapping[str, float] | None,
    seed: int,
    num_bootstrap: int,
) -> list[GroupRow]:
    rows = []
    for group, members in parts:
        subset = scores.subset(members)
        positives = int((subset.targets == 1).sum()) if scores.task.kind == "binary" else None
        patients = len(np.unique(subset.patients))
        small = patients < SMALL_GROUP or (
            positives is not None and min(positives, len(subset) - positives) < SMALL_CLASS
        )
        metrics = measure(subset, thresholds, seed=seed, num_bootstrap=num_bootstrap)
        rows.append(GroupRow(group, len(subset), positives, patients, small, metrics))
    return rows


def describe_folds(rows: Sequence[GroupRow]) -> str:
    """Say what the spread of the folds of a cross-validation means, and how much of it their size explains."""
    note = "Each sample was predicted by a model that was not trained on its patient."
    name = next((name for name in TITLES if rows and name in rows[0].metrics), "auroc")
    title = TITLES[name]
    measured = [row.metrics[name] for row in rows if not math.isnan(row.metrics[name].value)]
    if len(measured) < 2:
        return note
    values = [metric.value for metric in measured]
    note += (
        f" The {title} of the folds has a mean of {np.mean(values):.3f} and a standard deviation of"
        f" {np.std(values, ddof=1):.3f}"
    )
    widths = [metric.high - metric.low for metric in measured if not math.isnan(metric.low)]
    if widths:
        alone = math.sqrt(np.mean(np.square(widths))) / (2 * ndtri(0.975))
        note += f"; that the folds are small would alone make it about {alone:.3f}, without any difference between them"
    note += (
        ". As folds share training samples, this is not the standard error of the pooled result, whose interval"
        " is above."
    )
    if name == "mae":
        return note
    higher = "risks" if name == "c_index" else "probabilities"
    return (
        f"{note} The pooled result also compares samples of different folds, so that it is lower if the models of"
        f" the folds differ in how high their {higher} are."
    )


def groups(values: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the groups of a column for :func:`by_group`: names, each once, and rows, boolean ``(n,)``.

    Raises:
        UserError: More than twenty groups.
    """
    values = values.reset_index(drop=True)
    many = values.nunique() > FEW_VALUES and values.name != SITE
    if many and pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        named = dict(_quarters(values))
    else:
        if values.nunique() > MAX_GROUPS:
            raise UserError(f"column {values.name!r} has {values.nunique()} distinct values; expected at most "
                            f"{MAX_GROUPS} groups: choose another column, or group its values first")  # fmt: skip
        named = {}
        for value in sorted(values.dropna().unique(), key=lambda v: (isinstance(v, str), _natural(v))):
            # As written in the table: 1000460.0 is the scanner 1000460, not 1.00046e+06.
            name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            named[name] = named.get(name, False) | (values == value).to_numpy(dtype=bool, na_value=False)
    if values.isna().any():
        named["not given"] = named.get("not given", False) | values.isna().to_numpy()
    yield from named.items()


def _natural(value: Any) -> Any:
    """Return the key by which values are sorted: numbers in text by their size."""
    if not isinstance(value, str):
        return value
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", value)]


def _quarters(values: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    # Values of the column, so that a name never lies between a value and its group.
    cuts = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75], method="lower"))
    names = number_names(cuts)
    titles = [f"up to {names[0]}", *(f"above {low} to {high}" for low, high in pairwise(names)), f"above {names[-1]}"]
    quarter = np.where(np.isnan(numbers), -1, np.searchsorted(cuts, numbers))
    for number, title in enumerate(titles):
        if (members := quarter == number).any():
            yield title, members
