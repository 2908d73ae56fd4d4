"""The numbers of the readings: AUROC of readers with and without the model, changes of mind, and times; in a worker."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from softfree.evaluation.bootstrap import distribution
from softfree.evaluation.intervals import bias_corrected
from softfree.evaluation.metric_specs import Quantity
from softfree.evaluation.metrics import all_quantities, draws_of, independent, max_left_out, resampled
from softfree.evaluation.page import Grid, Page, Section, write_page
from softfree.evaluation.scores import Scores
from softfree.evaluation.vectorized_metrics import mean, on
from softfree.serving.readings import ALONE, REVIEW, WITH_MODEL
from softfree.serving.records import RenderResult
from softfree_runtime.core.task import Task

LEVEL = 0.95
RESAMPLES, SEED = 2000, 0
MODEL = "the model"
NOTES = (
    "AUROC of a reader: from the label and the confidence, which together give a probability for each class; a mean"
    " over classes if there are more than two. A reader's confidence from 0 to 1 stands for probabilities from that of"
    " a guess to 1.",
    "Intervals: bias-corrected percentile bootstrap over patients, all cases of a patient drawn together, the same"
    " resamples with and without the model. Readers are not resampled: the intervals hold for these readers. The mean"
    " leaves out readers whose cases are all of one class.",
    "The model's AUROC is that on the cases that were read. Not a medical device.",
)


@dataclass(frozen=True)
class Number:
    """A number with its interval; ``reason`` says why there is none."""

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


def report(
    paths: Sequence[Path], *, readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any], form: str
) -> RenderResult:
    """Compute the numbers; a task of a worker.

    Args:
        paths: None.
        readings: The last reading of each reader, case and phase.
        room: What :meth:`softfree.serving.room.Room.for_report` tells.
        form: ``json`` or ``html``.
    """
    found = study(readings, room) if room["blinded"] else review(readings, room)
    if form == "json":
        return RenderResult(json.dumps(found, allow_nan=False).encode(), "application/json")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_page(path, page_of(found, room))
        return RenderResult(path.read_bytes(), "text/html; charset=utf-8")


def review(readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any]) -> dict[str, Any]:
    """Count the decisions of readers who saw the model and the label."""
    own = [reading for reading in readings if reading["phase"] == REVIEW]
    by_reader: dict[str, dict[str, Any]] = {}
    for reading in own:
        counts = by_reader.setdefault(reading["reader"], {"agree": 0, "disagree": 0, "relabel": 0, "seconds": []})
        counts[reading["decision"]] += 1
        if reading["seconds"] is not None:
            counts["seconds"].append(reading["seconds"])
    rows = [
        {**counts, "reader": name, "seconds": float(np.median(counts["seconds"])) if counts["seconds"] else None}
        for name, counts in sorted(by_reader.items())
    ]
    return {"blinded": False, "cases": len({reading["row"] for reading in own}), "readers": rows, "notes": []}


def study(readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any]) -> dict[str, Any]:
    """Compare readers without and with the model, on the cases that each has read both ways."""
    cases = {case["row"]: case for case in room["cases"] if case["status"] == "ok"}
    given = {(one["reader"], one["row"], one["phase"]): one for one in readings if one["row"] in cases}
    names = sorted({reader for reader, _, phase in given if phase == WITH_MODEL})
    both = {
        name: sorted(row for row in cases if (name, row, ALONE) in given and (name, row, WITH_MODEL) in given)
        for name in names
    }
    both = {name: rows for name, rows in both.items() if rows}
    read = sorted({row for rows in both.values() for row in rows})
    empty = {"blinded": True, "cases": len(read), "patients": 0, "readers": [], "mean": None, "model": None,
             "notes": list(NOTES)}  # fmt: skip
    if not read:
        return empty
    task = Task(kind=room["task"], classes=tuple(room["classes"]))
    patients = np.array([cases[row]["patient"] for row in read])
    resamples = _Resamples(task, read, patients, cases)
    for name, rows in both.items():
        for phase in (ALONE, WITH_MODEL):
            resamples.add_scores(f"{name}/{phase}", rows, [
                _probabilities(given[name, row, phase], task) for row in rows])  # fmt: skip
            resamples.add_mean(f"{name}/{phase}/seconds", rows, [given[name, row, phase]["seconds"] for row in rows])
        changed = [given[name, row, ALONE]["label"] != given[name, row, WITH_MODEL]["label"] for row in rows]
        resamples.add_mean(f"{name}/changed", rows, changed)
    resamples.add_scores(MODEL, read, [[cases[row]["p"][name] for name in task.classes] for row in read])
    resamples.draw()
    readers = [_of_reader(name, rows, given, cases, resamples) for name, rows in both.items()]
    ranked = [name for name in both if resamples.has_area(f"{name}/{ALONE}", f"{name}/{WITH_MODEL}")]
    whole = None
    if len(ranked) > 1:
        whole = {
            "readers": len(ranked),
            "alone": resamples.average([f"{name}/{ALONE}" for name in ranked]).told(),
            "with_model": resamples.average([f"{name}/{WITH_MODEL}" for name in ranked]).told(),
            "difference": resamples.difference(ranked).told(),
            "changed": resamples.average([f"{name}/changed" for name in ranked]).told(),
            "seconds_alone": resamples.average([f"{name}/{ALONE}/seconds" for name in ranked]).told(),
            "seconds_with_model": resamples.average([f"{name}/{WITH_MODEL}/seconds" for name in ranked]).told(),
        }
    return empty | {
        "patients": len(np.unique(patients)),
        "readers": readers,
        "mean": whole,
        "model": resamples.average([MODEL]).told(),
    }


def _of_reader(
    name: str,
    rows: Sequence[int],
    given: Mapping[tuple[str, int, str], Mapping[str, Any]],
    cases: Mapping[int, Mapping[str, Any]],
    resamples: _Resamples,
) -> dict[str, Any]:
    changed = [(given[name, row, ALONE]["label"], given[name, row, WITH_MODEL]["label"], cases[row]["truth"])
               for row in rows]  # fmt: skip
    changed = [(before, after, truth) for before, after, truth in changed if before != after]
    return {
        "reader": name,
        "cases": len(rows),
        "alone": resamples.average([f"{name}/{ALONE}"]).told(),
        "with_model": resamples.average([f"{name}/{WITH_MODEL}"]).told(),
        "difference": resamples.difference([name]).told(),
        "changed": resamples.average([f"{name}/changed"]).told(),
        "to_right": sum(after == truth for _, after, truth in changed),
        "to_wrong": sum(before == truth for before, _, truth in changed),
        "seconds_alone": resamples.average([f"{name}/{ALONE}/seconds"]).told(),
        "seconds_with_model": resamples.average([f"{name}/{WITH_MODEL}/seconds"]).told(),
    }


def _probabilities(reading: Mapping[str, Any], task: Task) -> list[float]:
    """Return the probabilities (K,) that a reader's label and confidence stand for."""
    confidence = float(reading["confidence"])
    if task.kind == "multilabel":
        states = [reading["label"][name] for name in task.classes]
        return [0.5 if state is None else 0.5 + (confidence / 2 if state else -confidence / 2) for state in states]
    count = len(task.classes)
    own = 1 / count + confidence * (1 - 1 / count)
    return [own if name == reading["label"] else (1 - own) / (count - 1) for name in task.classes]


class _Resamples:
    """Statistics over the same resamples of patients, each on the cases that it is about."""

    def __init__(
        self, task: Task, read: Sequence[int], patients: np.ndarray, cases: Mapping[int, Mapping[str, Any]]
    ) -> None:
        self.task, self.patients, self._cases = task, patients, cases
        self._read = np.array(read)
        self._items: dict[str, tuple[Quantity, int]] = {}
        self._means: dict[str, tuple[float, int, int]] = {}
        self._statistics: dict[str, Any] = {}
        self._draws: dict[str, np.ndarray] = {}

    def add_scores(self, name: str, rows: Sequence[int], probabilities: Sequence[Sequence[float]]) -> None:
        """Add the AUROC of some probabilities."""
        where = self._where(rows)
        scores = Scores(self.task, np.array(probabilities), self._targets(rows), self.patients[where])
        items = all_quantities(scores, only="auroc")
        for leaf, statistic in resampled(items, ["auroc"]).items():
            self._statistics[f"{name}//{leaf}"] = on(where, statistic)
        self._items[name] = items["auroc"], independent(items["auroc"], items, scores)

    def add_mean(self, name: str, rows: Sequence[int], values: Sequence[float | bool | None]) -> None:
        """Add a mean over cases, without those that have no value."""
        known = {row: float(value) for row, value in zip(rows, values, strict=True) if value is not None}
        if not known:
            self._means[name] = math.nan, 0, 0
            return
        where, numbers = self._where(list(known)), np.array(list(known.values()))
        self._statistics[name] = on(where, mean(numbers))
        self._means[name] = float(numbers.mean()), len(known), len(np.unique(self.patients[where]))

    def _where(self, rows: Sequence[int]) -> np.ndarray:
        """Return which of all cases these are, boolean (n,); both are in the order of the rows."""
        return np.isin(self._read, rows)

    def draw(self) -> None:
        """Compute all of them over the resamples."""
        self._draws = distribution(self._statistics, self.patients, num_bootstrap=RESAMPLES, seed=SEED)

    def has_area(self, *names: str) -> bool:
        """Whether all of these have an AUROC: cases of two classes or more."""
        return not any(math.isnan(self._items[name][0].value) for name in names)

    def average(self, names: Sequence[str]) -> Number:
        """Return the mean of some of them, with its interval."""
        parts = [self._of(name) for name in names]
        return self._number([value for value, *_ in parts], [draws for _, draws, *_ in parts],
                            max(left_out for *_, left_out, _, _ in parts), min(count for *_, count, _ in parts),
                            sum(n for *_, n in parts))  # fmt: skip

    def difference(self, readers: Sequence[str]) -> Number:
        """Return by how much the mean AUROC of readers is higher with the model."""
        pairs = [(self._of(f"{name}/{WITH_MODEL}"), self._of(f"{name}/{ALONE}")) for name in readers]
        return self._number([after[0] - before[0] for after, before in pairs],
                            [after[1] - before[1] for after, before in pairs],
                            max(after[2] for after, _ in pairs), min(after[3] for after, _ in pairs),
                            sum(after[4] for after, _ in pairs))  # fmt: skip

    def _of(self, name: str) -> tuple[float, np.ndarray, float, int, int]:
        """Return value, draws, share of draws that may be missing, independent patients, and number of cases."""
        if name in self._means:
            value, n, patients = self._means[name]
            draws = self._draws.get(name, np.full(RESAMPLES, math.nan))
            return value, draws, 0.1, patients, n
        item, patients = self._items[name]
        if math.isnan(item.value):  # only one class among the cases
            return item.value, np.full(RESAMPLES, math.nan), 0.1, patients, int(item.rows.sum())
        own = {key.partition("//")[2]: values for key, values in self._draws.items() if key.startswith(f"{name}//")}
        return item.value, draws_of(item, "auroc", own), max_left_out(item, own), patients, int(item.rows.sum())

    def _number(
        self, values: Sequence[float], draws: Sequence[np.ndarray], left_out: float, patients: int, n: int
    ) -> Number:
        value = float(np.mean(values))
        if math.isnan(value):
            return Number(value, math.nan, math.nan, n, "no cases, or only one of the classes among them")
        interval = bias_corrected(value, np.mean(draws, axis=0), LEVEL, "", left_out, patients)
        return Number(value, interval.low, interval.high, n, interval.reason)

    def _targets(self, rows: Sequence[int]) -> np.ndarray:
        truths = [self._cases[row]["truth"] for row in rows]
        if self.task.exclusive:
            return np.array([self.task.classes.index(truth) for truth in truths])
        return np.array([[math.nan if truth[name] is None else truth[name] for name in self.task.classes]
                         for truth in truths], dtype=np.float64)  # fmt: skip


def page_of(found: Mapping[str, Any], room: Mapping[str, Any]) -> Page:
    """Return the numbers as a page."""
    title = "Reader study" if found["blinded"] else "Readings"
    if not found["readers"]:
        return Page(title=title, notice=room["notice"], paragraphs=["No case has been read to the end yet."])
    if not found["blinded"]:
        columns = ("Reader", "Agree", "Disagree", "Relabel", "Median seconds")
        rows = [(one["reader"], str(one["agree"]), str(one["disagree"]), str(one["relabel"]),
                 "" if one["seconds"] is None else f"{one['seconds']:.0f}") for one in found["readers"]]  # fmt: skip
        text = f"{found['cases']} cases were read with the label and the answer of {room['model']} in sight."
        section = Section(title="Decisions", table=Grid(columns, rows))
        return Page(title=title, notice=room["notice"], paragraphs=[text], sections=[section])
    people = [*found["readers"], *([found["mean"] | {"reader": "Mean"}] if found["mean"] else [])]
    areas = [(one["reader"], in_words(one["alone"]), in_words(one["with_model"]), in_words(one["difference"], sign="+"))
             for one in people]  # fmt: skip
    minds = [(one["reader"], in_words(one["changed"], percent=True), str(one.get("to_right", "")),
              str(one.get("to_wrong", "")), in_words(one["seconds_alone"], digits=0),
              in_words(one["seconds_with_model"], digits=0)) for one in people]  # fmt: skip
    model = in_words(found["model"])
    text = (f"{found['cases']} cases of {found['patients']} patients were read first without, then with the answer of"
            f" {room['model']}. On these cases the model's AUROC is {model}.")  # fmt: skip
    return Page(
        title=title,
        notice=room["notice"],
        paragraphs=[text],
        sections=[
            Section(
                title="AUROC of the readers",
                table=Grid(("Reader", "Alone", "With the model", "Difference"), areas),
            ),
            Section(
                title="Changes of mind, and time",
                table=Grid(("Reader", "Changed", "To the right label", "Away from it", "Seconds alone",
                            "Seconds with the model"), minds),
                notes=list(found["notes"]),
            ),
        ],
    )  # fmt: skip


def in_words(number: Mapping[str, Any], *, percent: bool = False, digits: int = 3, sign: str = "") -> str:
    """Say a number with its interval, such as ``0.912 (0.850 to 0.955)``."""
    if number["value"] is None:
        return "—"

    def one(value: float) -> str:
        return f"{100 * value:.0f} %" if percent else f"{value:{sign}.{digits}f}"

    if number["low"] is None:
        return one(number["value"])
    return f"{one(number['value'])} ({one(number['low'])} to {one(number['high'])})"
