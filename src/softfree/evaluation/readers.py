"""The numbers of a reader study: how well readers do without and with the model, how they change their mind, and times.

Everything is about readers who decided twice about a case: alone, and then with the model in sight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from softfree.evaluation.bootstrap import distribution
from softfree.evaluation.intervals import Interval, bias_corrected
from softfree.evaluation.metric_specs import Quantity
from softfree.evaluation.metrics import all_quantities, draws_of, independent, main_metric, max_left_out, resampled
from softfree.evaluation.over_readers import from_draws
from softfree.evaluation.scores import Scores
from softfree.evaluation.values import Values
from softfree.evaluation.vectorized_metrics import mean, on
from softfree_runtime.core.task import Task

LEVEL = 0.95
RESAMPLES, SEED = 2000, 0
_MODEL = "model"
_NO_VALUE = "not recorded, or cases of one class only"


class Decision(NamedTuple):
    """What a reader decided about a case.

    Attributes:
        label: A class; of findings 1, 0 or None (unknown) for each; a number.
        confidence: From 0 (a guess) to 1 (certain); of a number it is not used.
        seconds: How long it took, if that is known.
    """

    label: Any
    confidence: float | None = None
    seconds: float | None = None


class Case(NamedTuple):
    """A case: number of its patient, its label, and the model's probability of each class, or its number."""

    patient: int
    truth: Any
    model: Any


Twice = tuple[Decision, Decision]
"""Decisions about a case: alone, and with the model."""


@dataclass(frozen=True)
class Number:
    """A number with its interval; ``reason`` says why one of them is missing."""

    value: float
    low: float
    high: float
    n: int
    reason: str | None = None

    def told(self) -> dict[str, Any]:
        """As JSON: None for what is not a number."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if math.isnan(value) else value for name, value in values.items()} | {
            "n": self.n, "reason": self.reason,
        }  # fmt: skip


def reader_study(
    task: Task, cases: Mapping[int, Case], read: Mapping[str, Mapping[int, Twice]], name: str = ""
) -> dict[str, Any]:
    """Compare readers without and with the model, on the cases that each has read both ways.

    Args:
        task: What is decided.
        cases: The cases, by the number of their row; more than those that were read may be among them.
        read: The decisions of each reader, by row.
        name: Of the target, if there are several.

    Returns:
        ``target`` (its name), ``metric`` (``auroc``, or ``mae`` of a number), ``cases``, ``patients``, ``model``,
        ``readers`` and their ``mean``, None for fewer than two. A reader has ``alone``, ``with_model``,
        ``difference``, ``changed``, ``seconds_alone`` and ``seconds_with_model``, each as :meth:`Number.told` gives
        it, and of the changes of mind how many went ``to_right`` and ``to_wrong``, for numbers nearer to the label and
        farther from it. Intervals of the mean hold for other readers and cases, those of a reader for other cases.
    """
    own = {reader: {row: both for row, both in given.items() if row in cases} for reader, given in read.items()}
    own = {reader: given for reader, given in own.items() if given}
    rows = sorted({row for given in own.values() for row in given})
    metric = main_metric(task)
    found = {"target": name, "metric": metric, "cases": len(rows), "patients": 0, "model": None, "readers": [],
             "mean": None}  # fmt: skip
    if not rows:
        return found
    numbers = _Numbers(task, rows, cases)
    for number, given in enumerate(own.values()):
        numbers.add_reader(number, given)
    numbers.add_answers(_MODEL, rows, [cases[row].model for row in rows])
    numbers.draw()
    ranked = [number for number in range(len(own)) if numbers.has_value(number)]
    return found | {
        "patients": len({cases[row].patient for row in rows}),
        "model": numbers.of(_MODEL).told(),
        "readers": [{"reader": reader, "cases": len(given)} | numbers.told([number]) | _turns(task, given, cases)
                    for number, (reader, given) in enumerate(own.items())],
        "mean": {"readers": len(ranked)} | numbers.told(ranked) if len(ranked) > 1 else None,
    }  # fmt: skip


def _turns(task: Task, given: Mapping[int, Twice], cases: Mapping[int, Case]) -> dict[str, int]:
    """Count the changes of mind to the right label and away from it; of numbers nearer to it and farther from it."""
    changes = [(before.label, after.label, cases[row].truth) for row, (before, after) in given.items()]
    if task.numeric:
        nearer = [abs(before - truth) - abs(after - truth) for before, after, truth in changes]
        return {"to_right": sum(gain > 0 for gain in nearer), "to_wrong": sum(gain < 0 for gain in nearer)}
    changes = [change for change in changes if change[0] != change[1]]
    return {
        "to_right": sum(after == truth for _, after, truth in changes),
        "to_wrong": sum(before == truth for before, _, truth in changes),
    }


def as_probabilities(decision: Decision, task: Task) -> list[float]:
    """Return the probabilities (K,) that a label and a confidence stand for: from those of a guess to 0 and 1."""
    confidence = float(decision.confidence or 0.0)
    if task.kind == "multilabel":
        states = [decision.label[name] for name in task.classes]
        return [0.5 if state is None else 0.5 + (confidence / 2 if state else -confidence / 2) for state in states]
    count = len(task.classes)
    own = 1 / count + confidence * (1 - 1 / count)
    return [own if name == decision.label else (1 - own) / (count - 1) for name in task.classes]


@dataclass(frozen=True)
class _Drawn:
    """A number and its values over the resamples."""

    value: float
    draws: np.ndarray
    left_out: float  # share of the resamples that may lack a class
    patients: int  # independent ones
    n: int


class _Numbers:
    """Numbers over the same resamples of patients, each on the cases that it is about."""

    def __init__(self, task: Task, rows: Sequence[int], cases: Mapping[int, Case]) -> None:
        self.task, self._cases, self._rows = task, cases, np.array(rows)
        self._patients = np.array([cases[row].patient for row in rows])
        self._metric = main_metric(task)
        self._items: dict[str, tuple[Quantity, int]] = {}
        self._means: dict[str, tuple[float, int, int]] = {}
        self._statistics: dict[str, Any] = {}
        self._draws: dict[str, np.ndarray] = {}

    def add_reader(self, reader: int, given: Mapping[int, Twice]) -> None:
        """Add all numbers of a reader."""
        rows = sorted(given)
        for phase, number in (("alone", 0), ("with_model", 1)):
            decisions = [given[row][number] for row in rows]
            answers = [float(one.label) if self.task.numeric else as_probabilities(one, self.task) for one in decisions]
            self.add_answers(f"{reader}/{phase}", rows, answers)
            self.add_mean(f"{reader}/seconds_{phase}", rows, [one.seconds for one in decisions])
        self.add_mean(f"{reader}/changed", rows, [given[row][0].label != given[row][1].label for row in rows])

    def add_answers(self, name: str, rows: Sequence[int], answers: Sequence[Any]) -> None:
        """Add the AUROC of some probabilities, or the mean absolute error of some numbers."""
        where, truths = np.isin(self._rows, rows), [self._cases[row].truth for row in rows]
        kind = Values if self.task.numeric else Scores
        scores = kind(self.task, np.array(answers), _targets(truths, self.task), self._patients[where])
        items = all_quantities(scores, only=self._metric)
        for leaf, statistic in resampled(items, [self._metric]).items():
            self._statistics[f"{name}//{leaf}"] = on(where, statistic)
        self._items[name] = items[self._metric], independent(items[self._metric], items, scores)

    def add_mean(self, name: str, rows: Sequence[int], values: Sequence[float | bool | None]) -> None:
        """Add a mean over cases, without those that have no value."""
        known = {row: float(value) for row, value in zip(rows, values, strict=True) if value is not None}
        if not known:
            self._means[name] = math.nan, 0, 0
            return
        where, numbers = np.isin(self._rows, list(known)), np.array(list(known.values()))
        self._statistics[name] = on(where, mean(numbers))
        self._means[name] = float(numbers.mean()), len(known), len(np.unique(self._patients[where]))

    def draw(self) -> None:
        """Compute all of them over the resamples."""
        self._draws = distribution(self._statistics, self._patients, num_bootstrap=RESAMPLES, seed=SEED)

    def has_value(self, reader: int) -> bool:
        """Whether the answers of a reader have a value: an AUROC needs cases of two classes."""
        return not math.isnan(self._items[f"{reader}/alone"][0].value)

    def told(self, readers: Sequence[int]) -> dict[str, Any]:
        """Return the numbers of a reader, or the means of several, as JSON."""
        names = ("alone", "with_model", "changed", "seconds_alone", "seconds_with_model")
        found = {name: self.of(*(f"{reader}/{name}" for reader in readers)).told() for name in names}
        return found | {"difference": self._difference(readers).told()}

    def of(self, *names: str) -> Number:
        """Return a number, or the mean of those of several readers."""
        what = names[0].partition("/")[2]
        is_share = what == "changed" or (self.task.by_class and not what.startswith("seconds"))
        return _number([self._drawn(name) for name in names], 0.0, 1.0 if is_share else math.inf)

    def _difference(self, readers: Sequence[int]) -> Number:
        """Return by how much the AUROC or the error is larger with the model."""
        parts = []
        for reader in readers:
            after, before = self._drawn(f"{reader}/with_model"), self._drawn(f"{reader}/alone")
            parts.append(_Drawn(after.value - before.value, after.draws - before.draws,
                                max(after.left_out, before.left_out), min(after.patients, before.patients),
                                after.n))  # fmt: skip
        most = 1.0 if self.task.by_class else math.inf
        return _number(parts, -most, most)

    def _drawn(self, name: str) -> _Drawn:
        if name in self._means:
            value, n, patients = self._means[name]
            return _Drawn(value, self._draws.get(name, np.full(RESAMPLES, math.nan)), 0.1, patients, n)
        item, patients = self._items[name]
        n = int(item.rows.sum())
        if math.isnan(item.value):  # only one class among the cases
            return _Drawn(item.value, np.full(RESAMPLES, math.nan), 0.1, patients, n)
        own = {key.partition("//")[2]: values for key, values in self._draws.items() if key.startswith(f"{name}//")}
        return _Drawn(item.value, draws_of(item, self._metric, own), max_left_out(item, own), patients, n)


def _number(parts: Sequence[_Drawn], least: float, most: float) -> Number:
    """Return a number with its interval, or the mean of several readers' with one over readers and cases."""
    values = np.array([part.value for part in parts])
    value, n = float(values.mean()), sum(part.n for part in parts)
    if math.isnan(value):
        return Number(value, math.nan, math.nan, n, _NO_VALUE)
    left_out, patients = max(part.left_out for part in parts), min(part.patients for part in parts)
    interval: Interval
    if len(parts) > 1:
        interval = from_draws(values, np.array([part.draws for part in parts]), patients, left_out)
    else:
        interval = bias_corrected(value, parts[0].draws, LEVEL, "", left_out, patients)
    low, high = (math.nan if math.isnan(end) else min(max(end, least), most) for end in interval[:2])
    return Number(value, low, high, n, interval.reason)


def _targets(truths: Sequence[Any], task: Task) -> np.ndarray:
    """Return labels as :class:`Scores` or :class:`Values` take them."""
    if task.numeric:
        return np.array(truths, dtype=np.float64)
    if task.exclusive:
        return np.array([task.classes.index(truth) for truth in truths])
    return np.array([[math.nan if truth[name] is None else truth[name] for name in task.classes]
                     for truth in truths], dtype=np.float64)  # fmt: skip
