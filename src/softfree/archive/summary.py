"""What the rows of an archive say together: counts, scores by month, device and site, and drift."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.archive.origin import COLUMNS
from softfree.archive.task import Task
from softfree_runtime.core.files import write_atomically

KEPT = 100_000  # scores of each column, drawn at random, for figures and tests


@dataclass
class Mean:
    """The mean of the numbers of a column, without the rows that have none."""

    count: int = 0
    total: float = 0.0

    def add(self, column: pd.Series) -> None:
        """Add rows."""
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        numbers = numbers[np.isfinite(numbers)]
        self.count += len(numbers)
        self.total += float(numbers.sum())

    @property
    def value(self) -> float | None:
        """The mean; None without numbers."""
        return self.total / self.count if self.count else None


@dataclass
class Group:
    """Images of one month, device or site."""

    rows: int = 0
    predicted: int = 0
    unusual: Mean = field(default_factory=Mean)
    scores: dict[str, Mean] = field(default_factory=dict)

    def add(self, rows: pd.DataFrame, scores: list[str]) -> None:
        """Add rows to the counts."""
        good = rows[rows["status"] == "ok"]
        self.rows += len(rows)
        self.predicted += len(good)
        if "unusual" in good:
            self.unusual.add(good["unusual"])
        for name in scores:
            self.scores.setdefault(name, Mean()).add(good[name])

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers: counts, share of unusual images and mean scores; None or missing if no row says."""
        means = {name: mean.value for name, mean in self.scores.items() if mean.value is not None}
        return {"rows": self.rows, "predicted": self.predicted, "unusual": self.unusual.value, "means": means}


def read_summary(folder: ArchiveFolder) -> dict[str, Any] | None:
    """Read ``summary.json``; None if it was not written."""
    if not folder.summary.is_file():
        return None
    summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    return summary


def write_summary(folder: ArchiveFolder, task: Task) -> dict[str, Any]:
    """Summarize all rows in ``summary.json`` and ``summary.html``; memory does not grow with their number."""
    from softfree.archive.summary_page import write_summary_page

    statuses: Counter[str] = Counter()
    groups: dict[str, dict[str, Group]] = {name: {} for name in COLUMNS}
    kept, score = Sample(KEPT), re.compile(task.scores)
    whole = Group()
    for table in folder.rows():
        rows = table.select([field.name for field in table.schema if not pa.types.is_nested(field.type)]).to_pandas()
        statuses.update(rows["status"])
        names = [name for name in rows if score.fullmatch(name)]
        whole.add(rows, names)
        kept.add(rows.loc[rows["status"] == "ok", names].astype(np.float64))
        for column in COLUMNS:
            if column in rows:
                for value, own in rows.groupby(rows[column].fillna(""), sort=False):
                    groups[column].setdefault(str(value), Group()).add(own, names)
    scores = kept.values()
    reference = task.reference_scores()
    summary = {
        "rows": whole.rows,
        "statuses": dict(statuses.most_common()),
        "unusual": whole.to_dict()["unusual"],
        "means": whole.to_dict()["means"],
        "groups": {name: {value: group.to_dict() for value, group in sorted(found.items())}
                   for name, found in groups.items() if set(found) - {""}},
        "drift": drift(scores, reference),
    }  # fmt: skip
    write_summary_page(folder, task.words, summary, scores, reference)
    write_atomically(folder.summary, json.dumps(summary, indent=2, allow_nan=False))
    return summary


class Sample:
    """A random sample of rows of fixed size, each row with the same chance, for any number of them."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self._random = np.random.default_rng(seed)
        self._rows: pd.DataFrame | None = None
        self._keys = np.empty(0)

    def add(self, rows: pd.DataFrame) -> None:
        """Add rows; those with the smallest random keys are kept."""
        self._rows = rows if self._rows is None else pd.concat([self._rows, rows], ignore_index=True)
        self._keys = np.concatenate([self._keys, self._random.random(len(rows))])
        if len(self._keys) > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        assert self._rows is not None
        if len(self._keys) > self.size:
            chosen = np.sort(np.argpartition(self._keys, self.size)[: self.size])
            self._rows, self._keys = self._rows.iloc[chosen].reset_index(drop=True), self._keys[chosen]

    def values(self) -> dict[str, np.ndarray]:
        """Return the finite values of each column that has some."""
        if self._rows is None:
            return {}
        self._shrink()
        columns = {str(name): self._rows[name].to_numpy() for name in self._rows}
        return {name: finite for name, values in columns.items() if len(finite := values[np.isfinite(values)])}


def drift(scores: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Compare scores with those of the samples that the run was evaluated on, by Kolmogorov and Smirnov's test.

    Returns:
        By score ``distance`` (the largest difference of the two distribution functions) and ``p``.
    """
    from scipy.stats import ks_2samp

    tests = {}
    for name in scores.keys() & reference.keys():
        if min(len(scores[name]), len(reference[name])) >= 10:
            result = ks_2samp(scores[name], reference[name])
            tests[name] = {"distance": float(result.statistic), "p": float(result.pvalue)}
    return dict(sorted(tests.items()))
