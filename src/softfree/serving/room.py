"""What the HTTP process knows of the cases, and what a reader may see of them."""

from __future__ import annotations

import math
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
        """Values of each column that is shown and can be filtered by.

        Blinded, only clinical variables of the model: another column, such as a subtype, may give the label away.
        """
        columns: Mapping[str, list[str]] = self.content["columns"]
        if not self.blinded:
            return columns
        return {name: values for name, values in columns.items() if name in self.content["variables"]}

    @property
    def targets(self) -> Sequence[Mapping[str, Any]]:
        """What is decided about a case: one target without a name, or several."""
        targets: Sequence[Mapping[str, Any]] = self.content["targets"]
        return targets

    def case(self, row: int) -> Mapping[str, Any]:
        """Return a case; NotFound without it."""
        if row not in self._by_row:
            raise NotFound("no such case")
        return self._by_row[row]

    def about(self) -> dict[str, Any]:
        """Describe the room for the page."""
        splits = sorted({case["split"] for case in self.cases})
        kept = ("targets", "left_out", "study", "notice")
        known = {name: self.content[name] for name in kept} | {"columns": self.columns}
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
        shown["columns"] = {name: case["columns"][name] for name in self.columns}
        if self.blinded:
            shown = {name: value for name, value in shown.items() if name not in ("wrong", "error")}
            shown["answers"] = {name: {"row": answer["row"]} for name, answer in case["answers"].items()}
        uncovered = self.is_uncovered(own)
        if not uncovered:
            kept = ("row", "split", "columns", "views", "parts", "status", "reason")
            shown = {name: shown[name] for name in kept}
        newest = {reading.phase: reading.told() for reading in own}
        return shown | {"uncovered": uncovered, "done": self.is_done(own), "readings": newest}

    def checked(self, label: Any, *, needed: bool) -> Any:
        """Return a label that fits the task; of several targets the labels of those that the reader names.

        Raises:
            Invalid: It does not, or is missing.
        """
        if label is None:
            if needed:
                raise Invalid(f"a label is needed; expected {expected(self.targets[0])}")
            return None
        if not self.targets[0]["name"]:
            return checked_label(label, self.targets[0])
        targets = {target["name"]: target for target in self.targets}
        if not isinstance(label, dict) or not label or not set(label) <= set(targets):
            raise Invalid(f"expected labels by target, for {', '.join(targets)}")
        if self.blinded and set(label) != set(targets):
            raise Invalid(f"expected a label for each of {', '.join(targets)}")
        return {name: checked_label(one, targets[name]) for name, one in label.items()}

    def for_report(self, rows: Iterable[int]) -> dict[str, Any]:
        """Return truths, patients and the model's predictions of some cases."""
        kept = ("row", "patient", "answers", "status")
        cases = [{name: self._by_row[row][name] for name in kept} for row in sorted(rows) if row in self._by_row]
        return {**self.about(), "cases": cases}


def expected(target: Mapping[str, Any]) -> str:
    """Say what a label of a target may be."""
    if target["task"] == "regression":
        return "a number"
    names = ", ".join(target["classes"])
    return f"1, 0 or null for each of {names}" if target["task"] == "multilabel" else f"one of {names}"


def checked_label(label: Any, target: Mapping[str, Any]) -> Any:
    """Return a label that fits a target.

    Raises:
        Invalid: It does not.
    """
    classes, name = target["classes"], f"{target['name']}: " if target["name"] else ""
    problem = Invalid(f"{name}label {str(label)[:60]!r}: expected {expected(target)}")
    if target["task"] == "regression":
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise problem
        return float(label)
    if target["task"] == "multilabel":
        fits = isinstance(label, dict) and set(label) == set(classes)
        if not fits or not all(value in (0, 1, None) for value in label.values()):
            raise problem
        return label
    if not isinstance(label, str) or label not in classes:
        raise problem
    return label


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
        "confidence": lambda case: (case["confidence"] or 0.0, case["row"]),
        "certain": lambda case: (-(case["confidence"] or 0.0), case["row"]),
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
            raise UserError(f"--cases {options.cases}: a reading room has the cases of one run or study; {given};"
                            " serve that one beside exported files at most, and others on another --port")  # fmt: skip
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
        key = room_key(found["digest"], model.version.hash, blinded=blinded)
        return Room(model.name, self._options.cases, blinded, found, key)


def room_key(table: str, model: str, *, blinded: bool) -> str:
    """Return what names table, model and kind of reading in the database.

    Args:
        table: SHA-256 of the table.
        model: SHA-256 of the model, as :func:`softfree.serving.models.run_digest` gives it.
        blinded: Whether the model is hidden at first.
    """
    return sha256(f"{table}\n{model}\n{blinded}".encode()).hexdigest()
