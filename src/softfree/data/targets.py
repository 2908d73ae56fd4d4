"""Several targets of a table: their columns, and what a run keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softfree.data.follow_up import read_times
from softfree.data.labels import read_classes, read_findings, read_numbers, tidy_labels
from softfree.data.table_file import TableFile
from softfree.data.target_file import TargetSpec, read_targets
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.core.targets import Targets, target_columns
from softfree_runtime.core.task import Task, TaskKind

if TYPE_CHECKING:
    from softfree.data.table import Table

Reader = Callable[[Path, TableFile, TargetSpec], tuple[Task, np.ndarray]]
"""Reads the rows of a table that have the target: its task, and targets as :class:`Task` says."""


def specs_of(config: Mapping[str, Any]) -> tuple[TargetSpec, ...]:
    """Return the targets that the configuration of a run describes; empty for a run of one task."""
    return tuple(_spec_of(part, config.get("target") or {}) for part in config["task"].get("targets", ()))


def _spec_of(part: Mapping[str, Any], settings: Mapping[str, Any]) -> TargetSpec:
    kinds: dict[TaskKind, str] = {
        "multilabel": "findings", "ordinal": "ordinal", "regression": "regression", "survival": "survival"
    }  # fmt: skip
    spec = TargetSpec(
        part["name"],
        kinds.get(part["kind"], "classes"),
        tuple(part["columns"]),
        tuple(part["classes"]),
        weight=part.get("weight", 1.0),
        fixed=True,
    )
    if spec.kind != "survival":
        return spec
    cuts, horizons = part.get("cuts") or (), settings.get(spec.name, {}).get("horizons", ())
    return replace(spec, loss="hazard" if cuts else "cox", cuts=tuple(cuts), horizons=tuple(horizons))


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
    if task.numeric or task.timed:
        return replace(rows, task=task, targets=own[:, 0] if task.numeric else own)
    return replace(rows, task=task, targets=own[:, 0].astype(np.int64) if task.exclusive else own.astype(np.float32))


def tables_of(table: Table) -> dict[str, Table]:
    """Return the table of each target; a table of one task is one without a name."""
    if not isinstance(table.task, Targets):
        return {"": table}
    return {name: with_target(table, name) for name in table.task.classes}


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


def _read_times(path: Path, table: TableFile, spec: TargetSpec) -> tuple[Task, np.ndarray]:
    time, event = spec.columns
    task, targets = read_times(path, table, time, event, spec.classes or None)
    return replace(task, cuts=spec.cuts if spec.fixed else ()), targets  # else chosen when all rows have a split


READERS: dict[str, Reader] = {
    "classes": _read_classes,
    "findings": _read_findings,
    "ordinal": _read_classes,
    "regression": _read_numbers,
    "survival": _read_times,
}
"""How the columns of each kind are read."""
