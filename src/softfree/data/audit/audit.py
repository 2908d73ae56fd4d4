"""Audit of a table before training: every image is read, and problems that would spoil a result are reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from softfree.data.audit import checks
from softfree.data.audit.checks import Problem, class_marks, counted, find_near_duplicates, near_notes, near_pairs
from softfree.data.audit.confounds import Confound, features_of, find_confounds
from softfree.data.audit.probe import Probe, probe_all
from softfree.data.table import SPLITS, Table
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

_SHOWN = 10


@dataclass(frozen=True)
class Audit:
    """Result of an audit; names no patient.

    Attributes:
        task: The task.
        images: Number of rows of the task.
        readable: Number of readable rows.
        patients: Number of patients; None if the table has no ids.
        left_out: Number of unused rows, by reason.
        notes: Assumptions about the table, and harmless nearly identical images, one sentence each.
        split_made: How the split was made, in words; None if the table has its own.
        counts: Images by split and class; findings count where present.
        sizes: Smallest, median and largest width, height (pixels) and file size (bytes).
        kinds: Images by content of the file and class, the most frequent first.
        spacings: Images by pixel spacing, ``(slice x) row x column`` in mm.
        confounds: Features of files that predict the class, the strongest first.
        problems: Problems, errors first.
        near_duplicates: Nearly identical images, see :func:`softfree.data.audit.checks.pairs_frame`.
    """

    task: Task
    images: int
    readable: int
    patients: int | None
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    split_made: str | None
    counts: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, tuple[float, float, float]]
    kinds: Mapping[str, Mapping[str, int]]
    spacings: Mapping[str, int]
    confounds: tuple[Confound, ...]
    problems: tuple[Problem, ...]
    near_duplicates: pd.DataFrame

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return len(self.problems) - self.errors

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types for JSON."""
        pairs = self.near_duplicates.to_dict("records")
        plain = asdict(replace(self, near_duplicates=pd.DataFrame())) | {"near_duplicates": pairs}
        task = {"kind": self.task.kind, "classes": self.task.classes}
        return plain | {"task": task, "errors": self.errors, "warnings": self.warnings}

    def print(self, console: Console | None = None) -> None:
        """Print tables, then problems."""
        console = console or Console(highlight=False)
        patients = "" if self.patients is None else f" of {counted(self.patients, 'patient')}"
        console.print(f"{counted(self.images, 'image')}{patients}, {self.readable} readable")
        for reason, count in self.left_out.items():
            console.print(f"{counted(count, 'row')} left out: {reason}", markup=False)
        for note in self.notes:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
        if self.split_made:
            console.print(f"Split made: {self.split_made}", markup=False)
        for grid in self._grids():
            console.print(grid)
        for problem in self.problems:
            console.print(problem.severity, style="red" if problem.severity == "error" else "yellow", end=": ")
            hidden = len(problem.details) - _SHOWN
            more = [f"and {hidden} more"] if hidden > 0 else []
            for line in (problem.message, *(f"    {text}" for text in [*problem.details[:_SHOWN], *more])):
                console.print(line, markup=False, soft_wrap=True)
        totals = counted(self.errors, "error"), counted(self.warnings, "warning")
        console.print(", ".join(totals), style="bold")

    def _grids(self) -> Iterator[Grid]:
        grid = _grid("class", *self.counts)
        for name in self.task.classes:
            grid.add_row(Text(name), *(str(row[name]) for row in self.counts.values()))
        yield grid
        grid = _grid("stored as", "images")
        for stored, row in list(self.kinds.items())[:_SHOWN]:
            grid.add_row(Text(stored), Text(", ".join(f"{count} {name}" for name, count in row.items() if count)))
        _add_rest(grid, len(self.kinds))
        yield grid
        grid = _grid("", "smallest", "median", "largest")
        for name, values in self.sizes.items():
            grid.add_row(name, *(f"{value:,.0f}" for value in values))
        yield grid
        if self.spacings:
            grid = _grid("spacing (mm)", "images")
            for name, count in list(self.spacings.items())[:_SHOWN]:
                grid.add_row(name, str(count))
            _add_rest(grid, len(self.spacings))
            yield grid


def audit(
    table: Table,
    *,
    num_workers: int = 0,
    progress: bool = True,
    strict: bool = False,
    folds: Sequence[str] | None = None,
    probes: Sequence[Probe] | None = None,
) -> Audit:
    """Read every image of ``table`` once and look for problems that would spoil a result.

    Only a few facts of each image are kept in memory.

    Args:
        table: Read with ``strict_patients=False`` to report shared patients instead of refusing them.
        num_workers: Number of reading threads; 0 reads in this thread.
        progress: Whether to show a progress bar.
        strict: Whether a corrected file is an error.
        folds: Fold of each row, empty for rows in none; None for a table without folds.
        probes: Facts about the file of each row, if they are known already.

    Raises:
        UserError: No image can be read.
    """
    facts = probe_all(table.frame, num_workers=num_workers, progress=progress) if probes is None else probes
    probed = pd.DataFrame(list(facts))
    ok = (probed["status"] == "ok").to_numpy()
    if not ok.any():
        first = probed["reason"].iloc[0]
        raise UserError(f"none of the {len(probed)} images can be read; the first: {first}")
    read = probed[ok]
    patients = table.frame["patient"].to_numpy()[ok]
    confounds = tuple(find_confounds(features_of(read), table.task, table.targets[ok], patients))
    pairs = near_pairs(probed)
    problems = chain(
        checks.find_unreadable(table, probed),
        checks.find_corrected(table, probed, strict=strict),
        checks.find_duplicates(table, probed, folds),
        find_near_duplicates(table, pairs, folds),
        checks.find_shared_patients(table, folds),
        checks.find_broken_cases(table),
        checks.find_near_equal(table),
        checks.find_thin_classes(table),
        checks.find_mixed_units(table),
        checks.find_blank(table, probed),
        checks.find_confounded(confounds),
        checks.find_telling_kinds(table, probed),
    )
    marks = pd.DataFrame(class_marks(table), columns=list(table.task.classes))
    sizes = {name: read[column] for name, column in (("width", "width"), ("height", "height"), ("bytes", "file_size"))}
    return Audit(
        task=table.task,
        images=len(probed),
        readable=int(ok.sum()),
        patients=int(table.frame["patient"].nunique()) if checks.knows_patients(table) else None,
        left_out=dict(table.left_out),
        notes=(*table.notes, *near_notes(table, pairs)),
        split_made=table.split_made,
        counts=_counts(marks, table.frame["split"], SPLITS),
        sizes={name: (float(s.min()), float(s.median()), float(s.max())) for name, s in sizes.items()},
        kinds=_counts(marks[ok], read["stored"], read["stored"].value_counts().index),
        spacings=_spacings(read["spacing"]),
        confounds=confounds,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity)),  # "error" before "warning"
        near_duplicates=checks.pairs_frame(table, pairs, folds),
    )


def _counts(marks: pd.DataFrame, by: pd.Series, order: Iterable[str]) -> dict[str, dict[str, int]]:
    """Count the rows of each class for each value of ``by``, in the order of ``order``."""
    sums = {name: {str(c): int(n) for c, n in group.sum().items()} for name, group in marks.groupby(by)}
    return {name: sums[name] for name in order if name in sums}


def _spacings(spacings: pd.Series) -> dict[str, int]:
    names = spacings.dropna().map(lambda sides: " x ".join(f"{side:.4g}" for side in sides))
    return {str(name): int(count) for name, count in names.value_counts().items()}


def _add_rest(grid: Grid, number: int) -> None:
    """Add a row with the number of rows not shown."""
    if number > _SHOWN:
        grid.add_row(f"and {number - _SHOWN} more")


def _grid(first: str, *columns: str) -> Grid:
    grid = Grid(first)
    for column in columns:
        grid.add_column(column, justify="right")
    return grid
