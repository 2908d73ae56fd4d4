"""The file of ``--targets``: what it may say of each target, and one line for what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from softfree.core.options import SurvivalLossName
from softfree.data.table_file import closest
from softfree_runtime.core.errors import UserError, listed
from softfree_runtime.core.files import read_yaml
from softfree_runtime.core.targets import NAME
from softfree_runtime.core.task import Task
from softfree_runtime.core.validation import mismatch, shown
from softfree_runtime.sources.identity import plain_text

KINDS = ("classes", "findings", "ordinal", "regression", "survival")
COLUMNS = {"findings": ("columns",), "survival": ("time", "event")}
"""Fields with the columns of a kind; those of other kinds have one, ``column``."""
_OF_TIMES = ("loss", "cuts", "horizons")
_FIELDS = {
    "name": str, "kind": str, "column": str, "columns": list[str], "time": str, "event": str, "classes": list[str],
    "positive": str, "weight": float, "loss": str, "cuts": list[float], "horizons": list[float],
}  # fmt: skip


@dataclass(frozen=True)
class TargetSpec:
    """A target as a file of targets or a run describes it.

    Attributes:
        name: Its name, also of its folder and the first part of its columns.
        kind: One of :data:`KINDS`.
        columns: Columns of the table: several for findings, for survival those of the time and the event, else one.
        classes: All classes in their order; empty for those of the column, in their own order.
        positive: The second class of two; None for the last in order.
        weight: Of its loss.
        loss: Of survival: hazards in time intervals, or one hazard ratio (cox); None for other kinds.
        cuts: Ends of the time intervals; empty for those of the training events, and without intervals.
        horizons: Times at which survival is predicted; empty for quartiles of the training events.
        fixed: Whether ``classes`` and ``cuts`` are those of a trained model, to which all labels must belong.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    positive: str | None = None
    weight: float = 1.0
    loss: SurvivalLossName | None = None
    cuts: tuple[float, ...] = ()
    horizons: tuple[float, ...] = ()
    fixed: bool = False

    @property
    def labeled(self) -> bool:
        """Whether its column has the names of classes."""
        return self.kind in ("classes", "ordinal")

    def options(self) -> dict[str, Any]:
        """Return the options that say the same about a table with this target alone; see ``LABEL_OPTIONS``."""
        several, timed = self.kind == "findings", self.kind == "survival"
        options = {
            "targets": None,
            "label": self.columns[0],
            "event": self.columns[1] if timed else None,
            "labels": list(self.columns) if several else None,
            "task": self.kind if self.kind in ("ordinal", "regression", "survival") else None,
            "classes_in_order": list(self.classes) if self.kind == "ordinal" else None,
            "positive": self.positive,
        }
        times = {"loss": self.loss, "cuts": list(self.cuts) or None, "horizons": list(self.horizons) or None}
        return options | (times if timed else {})

    def to_config(self, task: Task) -> dict[str, Any]:
        """Return what a run keeps of it, with the task that was read."""
        return {
            "name": self.name,
            "kind": task.kind,
            "classes": list(task.classes),
            "columns": list(self.columns),
            "weight": self.weight,
        } | ({"cuts": list(task.cuts)} if task.timed else {})


def read_targets(path: Path) -> tuple[TargetSpec, ...]:
    """Read a YAML file with a list of targets.

    Raises:
        UserError: It cannot be read, or a target lacks a field, has an unknown one, or a value that does not fit.
    """
    content = read_yaml(path, "targets")
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path}: expected a list of targets, each '- name: NAME' with kind and column below it")
    specs = tuple(_checked(path, entry, number) for number, entry in enumerate(content, start=1))
    taken: set[str] = set()
    for spec in specs:
        if spec.name.casefold() in taken:  # also of folders, of which some systems ignore the case
            raise UserError(f"{path}: two targets are called {spec.name!r}; give each a name of its own")
        taken.add(spec.name.casefold())
    return specs


def _checked(path: Path, entry: Mapping[str, Any], number: int) -> TargetSpec:
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        got = f"is {shown(name)}" if "name" in entry else "is missing"
        raise UserError(f"{path}: the name of target {number} {got}; expected a word of letters, digits, _ and -")
    what = f"{path}: target {name!r}:"
    for field, value in entry.items():
        if field not in _FIELDS:
            meant = closest(str(field), _FIELDS)
            hint = f" (did you mean {meant!r}?)" if meant else ""
            raise UserError(f"{what} unknown field {shown(field)}{hint}; expected {listed(_FIELDS)}")
        if field != "classes" and (expected := mismatch(value, _FIELDS[field])):
            raise UserError(f"{what} {field} is {shown(value)}; expected {expected}")
    kind = entry.get("kind")
    if kind not in KINDS:
        got = "kind is missing" if kind is None else f"unknown kind {shown(kind)}"
        raise UserError(f"{what} {got}; expected {' or '.join(KINDS)}")
    if entry.get("weight", 1.0) <= 0:
        raise UserError(f"{what} weight is {entry['weight']}; expected a number above 0")
    return TargetSpec(
        name,
        kind,
        _columns(what, entry),
        _classes(what, entry),
        entry.get("positive"),
        float(entry.get("weight", 1.0)),
        **_times(what, entry),
    )


def _columns(what: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a target: of findings several, of survival time and event, else one."""
    fields = COLUMNS.get(entry["kind"], ("column",))
    if {"column", "columns", "time", "event"} & entry.keys() != set(fields):
        example = {"columns": "columns: [one, another]", "time": "time: NAME' and 'event: NAME"}
        raise UserError(f"{what} expected '{example.get(fields[0], 'column: NAME')}' for kind {entry['kind']}")
    columns = tuple(entry["columns"]) if fields == ("columns",) else tuple(entry[field] for field in fields)
    if not columns or len(set(columns)) < len(columns):
        raise UserError(f"{what} columns are {shown(list(columns))}; expected different ones")
    return columns


def _times(what: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of survival; none for other kinds."""
    if entry["kind"] != "survival":
        if given := [field for field in _OF_TIMES if field in entry]:
            raise UserError(f"{what} {given[0]} is for kind survival; leave it out of {entry['kind']}")
        return {}
    loss, cuts, horizons = entry.get("loss", "hazard"), entry.get("cuts", []), entry.get("horizons", [])
    if loss not in get_args(SurvivalLossName):
        raise UserError(f"{what} loss is {shown(loss)}; expected {' or '.join(get_args(SurvivalLossName))}")
    if loss == "cox" and "cuts" in entry:
        raise UserError(f"{what} cuts are for loss hazard: a Cox model has no time intervals; leave one of them out")
    for field, times in (("cuts", cuts), ("horizons", horizons)):
        if field in entry and (not times or any(not 0 <= low < high for low, high in pairwise([0, *times]))):
            raise UserError(f"{what} {field} are {shown(times)}; expected increasing times above 0, as [365, 730]")
    return {"loss": loss, "cuts": tuple(map(float, cuts)), "horizons": tuple(map(float, horizons))}


def _classes(what: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes in order; whole numbers may be written without quotes."""
    kind, classes = entry["kind"], entry.get("classes")
    if "positive" in entry and kind != "classes":
        raise UserError(f"{what} positive is for kind classes; leave it out of {kind}")
    if classes is None:
        return ()
    if kind not in ("classes", "ordinal"):
        raise UserError(f"{what} classes are for the kinds classes and ordinal; leave them out of {kind}")
    entries = classes if isinstance(classes, list) else []
    words = all(isinstance(one, str | int) and not isinstance(one, bool) for one in entries)
    names = tuple(plain_text(str(one)) for one in entries) if words else ()
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{what} classes are {shown(classes)}; expected two or more different names, text in quotes")
    return names
