"""What the HTTP process knows of the cases, and what a reader may see of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from softfree.serving.cases import loaded, without_files
from softfree.serving.errors import Invalid, NotFound
from softfree.serving.options import ServeOptions
from softfree.serving.readings import ALONE, REVIEW, WITH_MODEL, Reading
from softfree.serving.records import ServedModel
from softfree_runtime.core.errors import UserError


@dataclass
class Room:
    """The cases of a run or study.

    Attributes:
        model: Its name on this server.
        table: The table.
        blinded: Whether the model is hidden until the reader has decided.
        content: What :func:`softfree.serving.cases.load_cases` found.
        key: Names table and model in the database.
        jobs: Job with the map of a case, by its row.
    """

    model: str
    table: Path
    blinded: bool
    content: Mapping[str, Any]
    key: str
    jobs: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_row = {case["row"]: case for case in self.cases}

    @property
    def cases(self) -> Sequence[Mapping[str, Any]]:
        """All cases, in the order of the predictions."""
        cases: Sequence[Mapping[str, Any]] = self.content["cases"]
        return cases

    @property
    def columns(self) -> Mapping[str, list[str]]:
        """Values of each column that can be filtered by."""
        columns: Mapping[str, list[str]] = self.content["columns"]
        return columns

    @property
    def labels(self) -> list[str]:
        """Columns of the table with the labels."""
        return list(self.content["labels"])

    def case(self, row: int) -> Mapping[str, Any]:
        """Return a case; NotFound without it."""
        if row not in self._by_row:
            raise NotFound("no such case")
        return self._by_row[row]

    def about(self) -> dict[str, Any]:
        """Describe the room for the page."""
        splits = sorted({case["split"] for case in self.cases})
        kept = ("classes", "task", "columns", "study", "thresholds", "coverage", "notice")
        known = {name: self.content[name] for name in kept}
        return known | {"model": self.model, "blinded": self.blinded, "splits": splits}

    def is_uncovered(self, own: Iterable[Reading]) -> bool:
        """Whether a reader with these readings of a case may see what the model says."""
        return not self.blinded or any(reading.phase == ALONE for reading in own)

    def is_done(self, own: Iterable[Reading]) -> bool:
        """Whether a reader with these readings of a case has decided."""
        last = WITH_MODEL if self.blinded else REVIEW
        return any(reading.phase == last for reading in own)

    def told(self, case: Mapping[str, Any], own: Sequence[Reading]) -> dict[str, Any]:
        """Return what a reader may see of a case; blinded, never the truth, and the model only after a decision."""
        shown = without_files(case) | {"parts": len(case["files"])}
        if self.blinded:
            shown.pop("truth")
            for name in ("wrong", "error"):
                shown.pop(name)
        uncovered = self.is_uncovered(own)
        if not uncovered:
            kept = ("row", "split", "columns", "views", "parts", "status", "reason")
            shown = {name: shown[name] for name in kept}
        newest = {reading.phase: reading.told() for reading in own}
        return shown | {"uncovered": uncovered, "done": self.is_done(own), "readings": newest}

    def checked(self, label: Any, *, needed: bool) -> Any:
        """Return a label that fits the task.

        Raises:
            Invalid: It does not, or is missing.
        """
        classes = self.content["classes"]
        if label is None:
            if needed:
                raise Invalid(f"a label is needed; expected one of {', '.join(classes)}")
            return None
        if self.content["task"] == "multilabel":
            fits = isinstance(label, dict) and set(label) == set(classes)
            if not fits or not all(value in (0, 1, None) for value in label.values()):
                raise Invalid(f"expected 1, 0 or null for each of {', '.join(classes)}")
            return label
        if not isinstance(label, str) or label not in classes:
            raise Invalid(f"label {str(label)[:60]!r}: expected one of {', '.join(classes)}")
        return label

    def for_report(self, rows: Iterable[int]) -> dict[str, Any]:
        """Return truths, patients and the model's probabilities of some cases."""
        kept = ("row", "patient", "truth", "p", "status")
        cases = [{name: self._by_row[row][name] for name in kept} for row in sorted(rows) if row in self._by_row]
        return {**self.about(), "cases": cases, "blinded": self.blinded}


def matches(case: Mapping[str, Any], show: str, own: Sequence[Reading], *, blinded: bool) -> bool:
    """Whether a case belongs to a filter."""
    done = any(reading.phase == (WITH_MODEL if blinded else REVIEW) for reading in own)
    return {
        "all": True,
        "errors": case["wrong"] or case["status"] != "ok",
        "correct": not case["wrong"] and case["status"] == "ok",
        "abstained": bool(case.get("abstain")),
        "unusual": bool(case.get("unusual")),
        "unread": not done,
        "read": done,
    }[show]


def order(cases: Iterable[Mapping[str, Any]], sort: str, reader: str | None) -> list[Mapping[str, Any]]:
    """Sort cases; with a reader at random, but always alike for this one."""
    if reader is not None:
        return sorted(cases, key=lambda case: sha256(f"{reader}\n{case['row']}".encode()).digest())
    keys = {
        "errors": lambda case: (not case["wrong"], -case["error"], case["row"]),
        "confidence": lambda case: (case["confidence"], case["row"]),
        "certain": lambda case: (-case["confidence"], case["row"]),
        "row": lambda case: case["row"],
    }
    return sorted(cases, key=keys[sort])


class Opening:
    """Reads the cases in a process of its own, while the workers load the models.

    Args:
        options: The options of the server.
        models: Path of each model by its name.

    Raises:
        UserError: The options contradict each other, or it is not clear which model the cases belong to.
    """

    def __init__(self, options: ServeOptions, models: Mapping[str, Path]) -> None:
        self._options = options
        self._executor: ProcessPoolExecutor | None = None
        if options.cases is None:
            if options.blinded:
                raise UserError("--blinded needs --cases TABLE")
            return
        runs = [name for name, path in models.items() if path.is_dir()]
        if len(runs) != 1:
            given = "there is none" if not runs else f"there are {len(runs)}: {', '.join(runs)}"
            raise UserError(f"--cases {options.cases}: serve the run or study that the cases belong to, and one alone;"
                            f" {given}")  # fmt: skip
        (self._name,) = runs
        self._executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._found = self._executor.submit(loaded, models[self._name], options.cases)

    def room(self, models: Mapping[str, ServedModel]) -> Room | None:
        """Wait for the cases; None without ``--cases``.

        Raises:
            UserError: They cannot be used.
        """
        if self._executor is None or self._options.cases is None:
            return None
        with self._executor:
            found = self._found.result()
        if isinstance(found, UserError):
            raise found
        model, blinded = models[self._name], self._options.blinded
        key = sha256(f"{found['digest']}\n{model.version.hash}\n{blinded}".encode()).hexdigest()
        return Room(model.name, self._options.cases, blinded, found, key)
