"""The file of ``--targets``, and the columns of a table that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softfree.data.labels import read_classes, read_findings, read_numbers, tidy_labels
from softfree.data.table_file import TableFile, closest
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.core.files import read_yaml
from softfree_runtime.core.targets import NAME, Targets, target_columns
from softfree_runtime.core.task import Task, TaskKind
from softfree_runtime.core.validation import mismatch, shown
from softfree_runtime.sources.identity import plain_text

if TYPE_CHECKING:
    from softfree.data.table import Table

_FIELDS = {"name": str, "kind": str, "column": str, "columns": list[str], "classes": list[str], "positive": str,
           "weight": float}  # fmt: skip


@dataclass(frozen=True)
class TargetSpec:
    """A target as a file of targets or a run describes it.

    Attributes:
        name: Its name, also of its folder and the first part of its columns.
        kind: A key of :data:`READERS`.
        columns: Columns of the table; several for findings.
        classes: All classes in their order; empty for those of the column, in their own order.
        positive: The second class of two; None for the last in order.
        weight: Of its loss.
        fixed: Whether ``classes`` are those of a trained model, to which all labels must belong.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    positive: str | None = None
    weight: float = 1.0
    fixed: bool = False

    @property
    def labeled(self) -> bool:
        """Whether its column has the names of classes."""
        return self.kind in ("classes", "ordinal")

    def options(self) -> dict[str, Any]:
        """Return the options that say the same about a table with this target alone; see ``LABEL_OPTIONS``."""
        several = self.kind == "findings"
        return {
            "targets": None,
            "label": self.columns[0],
            "labels": list(self.columns) if several else None,
            "task": self.kind if self.kind in ("ordinal", "regression") else None,
            "classes_in_order": list(self.classes) if self.kind == "ordinal" else None,
            "positive": self.positive,
        }

    def to_config(self, task: Task) -> dict[str, Any]:
        """Return what a run keeps of it, with the task that was read."""
        return {
            "name": self.name,
            "kind": task.kind,
            "classes": list(task.classes),
            "columns": list(self.columns),
            "weight": self.weight,
        }


Reader = Callable[[Path, TableFile, TargetSpec], tuple[Task, np.ndarray]]
"""Reads the rows of a table that have the target: its task, and targets as :class:`Task` says."""


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


def specs_of(config: Mapping[str, Any]) -> tuple[TargetSpec, ...]:
    """Return the targets that the configuration of a run describes; empty for a run of one task."""
    kinds: dict[TaskKind, str] = {"multilabel": "findings", "ordinal": "ordinal", "regression": "regression"}
    return tuple(
        TargetSpec(
            part["name"],
            kinds.get(part["kind"], "classes"),
            tuple(part["columns"]),
            tuple(part["classes"]),
            weight=part.get("weight", 1.0),
            fixed=True,
        )
        for part in config["task"].get("targets", ())
    )


def task_in_config(task: Task, path: Path | None) -> dict[str, Any]:
    """Return what a run keeps of its task; of several targets also their columns and weights.

    Args:
        task: The task that was read.
        path: The file of its targets; None for a single task.
    """
    content: dict[str, Any] = {"kind": task.kind, "classes": list(task.classes)}
    content |= {"cuts": list(task.cuts)} if task.timed else {}
    if not isinstance(task, Targets) or path is None:
        return content
    parts = dict(task.parts)
    return content | {"targets": [spec.to_config(parts[spec.name]) for spec in read_targets(path)]}


def weights_of(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the weight of the loss of each target in the configuration of a run; empty for a run of one task."""
    return {spec.name: spec.weight for spec in specs_of(config)}


def tidy_targets(path: Path, table: TableFile, specs: Sequence[TargetSpec]) -> TableFile:
    """Join labels that look the same and clear words for a missing one, in the columns with classes."""
    for spec in specs:
        if spec.labeled:
            table, _ = tidy_labels(table, spec.columns[0], spec.classes or None)
    return table


def read_target_columns(path: Path, table: TableFile, specs: Sequence[TargetSpec]) -> tuple[Targets, np.ndarray]:
    """Read all targets of the rows of a table.

    Args:
        path: Path of the table, for messages.
        table: Rows with at least one known target.
        specs: The targets.

    Returns:
        The targets, and their values ``(n, columns)``, NaN where unknown; see :class:`Targets`.

    Raises:
        UserError: A target has no known cell, or a cell that does not fit its kind.
    """
    tasks, values = {}, []
    for spec in specs:
        known = table.frame[list(spec.columns)].notna().any(axis=1)
        if not known.any():
            raise UserError(
                f"{path}: target {spec.name!r} has no known cell in {listed(spec.columns)}; fill some in, or leave the"
                " target out"
            )
        try:
            task, own = READERS[spec.kind](path, replace(table, frame=table.frame[known]), spec)
        except UserError as error:
            raise UserError(f"target {spec.name!r}: {error}") from None
        column = np.full((len(table.frame), target_columns(task)), np.nan)
        column[known.to_numpy()] = own.reshape(len(own), -1)
        tasks[spec.name] = task
        values.append(column)
    return Targets.of(tasks), np.hstack(values)


def refuse_unknown(table: Table, splits: Sequence[str], path: Path) -> None:
    """Refuse a target that no row of one of these splits has.

    Raises:
        UserError: Names target and split.
    """
    for split in splits:
        rows = table.where(split)
        known = rows.task.known(rows.targets) if isinstance(rows.task, Targets) else {}
        for name, has_value in known.items():
            if not has_value.any():
                raise UserError(
                    f"{path}: target {name!r} has no known cell in the rows of split {split}; fill some in, or leave"
                    " the target out"
                )


def refuse_targets(path: Path | None, command: str) -> None:
    """Refuse several targets where a command works on one.

    Raises:
        UserError: There is a file of targets.
    """
    if path is not None:
        raise UserError(f"{command} works on one target: name its column with --label, and leave out --targets")


def with_target(table: Table, name: str) -> Table:
    """Return the rows of a table whose value of one target is known, as a table of that task alone."""
    assert isinstance(table.task, Targets)
    rows = table.take(np.flatnonzero(table.task.known(table.targets)[name]))
    task = dict(table.task.parts)[name]
    own = rows.targets[:, table.task.target_slices()[name]]
    if task.numeric:
        return replace(rows, task=task, targets=own[:, 0])
    return replace(rows, task=task, targets=own[:, 0].astype(np.int64) if task.exclusive else own.astype(np.float32))


def tables_of(table: Table) -> dict[str, Table]:
    """Return the table of each target; a table of one task is one without a name."""
    if not isinstance(table.task, Targets):
        return {"": table}
    return {name: with_target(table, name) for name in table.task.classes}


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
            raise UserError(f"{what} unknown field {shown(field)}{hint}; expected {listed(list(_FIELDS), 9)}")
        if field != "classes" and (expected := mismatch(value, _FIELDS[field])):
            raise UserError(f"{what} {field} is {shown(value)}; expected {expected}")
    kind = entry.get("kind")
    if kind not in READERS:
        got = "kind is missing" if kind is None else f"unknown kind {shown(kind)}"
        raise UserError(f"{what} {got}; expected {' or '.join(READERS)}")
    if entry.get("weight", 1.0) <= 0:
        raise UserError(f"{what} weight is {entry['weight']}; expected a number above 0")
    return TargetSpec(
        name,
        kind,
        _columns(what, entry),
        _classes(what, entry),
        entry.get("positive"),
        float(entry.get("weight", 1.0)),
    )


def _columns(what: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a target: of findings several, else one."""
    field, other = ("columns", "column") if entry["kind"] == "findings" else ("column", "columns")
    if other in entry or field not in entry:
        example = "columns: [one, another]" if field == "columns" else "column: NAME"
        raise UserError(f"{what} expected '{example}' for kind {entry['kind']}")
    columns = tuple(entry["columns"]) if field == "columns" else (entry["column"],)
    if not columns or len(set(columns)) < len(columns):
        raise UserError(f"{what} columns are {shown(list(columns))}; expected different ones")
    return columns


def _classes(what: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes in order; whole numbers may be written without quotes."""
    kind, classes = entry["kind"], entry.get("classes")
    if "positive" in entry and kind != "classes":
        raise UserError(f"{what} positive is for kind classes; leave it out of {kind}")
    if classes is None:
        return ()
    if kind not in ("classes", "ordinal"):
        raise UserError(f"{what} classes are for the kinds classes and ordinal; leave them out of {kind}")
    words = all(isinstance(one, str | int) and not isinstance(one, bool) for one in classes) if classes else False
    names = tuple(plain_text(str(one)) for one in classes) if isinstance(classes, list) and words else ()
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{what} classes are {shown(classes)}; expected two or more different names, text in quotes")
    return names


def _read_classes(path: Path, table: TableFile, spec: TargetSpec) -> tuple[Task, np.ndarray]:
    _refuse_other_classes(path, table, spec)
    ordered, column = spec.kind == "ordinal", spec.columns[0]
    fixed = spec.classes if spec.classes and (spec.fixed or not ordered) else None
    if ordered and not spec.fixed and table.frame[column].nunique() < 3:
        present = listed(sorted(table.frame[column].unique()))
        raise UserError(f"an ordinal target needs three or more classes; column {column!r} has {present}: use kind"
                        " classes")  # fmt: skip
    if ordered and not spec.classes and any(not value.removeprefix("-").isdigit() for value in table.frame[column]):
        raise UserError(
            f"{path}: the classes of column {column!r} are not whole numbers, so that their order is not known; list"
            " them from the lowest to the highest, as 'classes: [none, mild, severe]'"
        )
    if fixed is not None and spec.positive is not None:
        raise UserError("give positive or classes, of which the second is positive; not both")
    return read_classes(
        path, table, column, spec.positive, fixed, ordered=ordered, order=spec.classes or None if ordered else None
    )


def _refuse_other_classes(path: Path, table: TableFile, spec: TargetSpec) -> None:
    """Refuse classes of the file that are not those of the column; a trained model's may be absent."""
    present = set(table.frame[spec.columns[0]].unique())
    if not spec.classes or spec.fixed or present == set(spec.classes):
        return
    got = ", ".join(map(repr, spec.classes))
    raise UserError(
        f"classes are {got}; expected each class of column {spec.columns[0]!r} once:"
        f" {', '.join(map(shortened, sorted(map(str, present))[:20]))}"
    )


def _read_numbers(path: Path, table: TableFile, spec: TargetSpec) -> tuple[Task, np.ndarray]:
    return read_numbers(path, table, spec.columns[0], spec.classes or None)


def _read_findings(path: Path, table: TableFile, spec: TargetSpec) -> tuple[Task, np.ndarray]:
    return read_findings(path, table, spec.columns, spec.classes or None)


READERS: dict[str, Reader] = {
    "classes": _read_classes,
    "findings": _read_findings,
    "ordinal": _read_classes,
    "regression": _read_numbers,
}
"""How the columns of each kind are read."""
