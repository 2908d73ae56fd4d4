"""Which columns of a table hold the labels, and what task they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.core.options import Target
from softfree.data.follow_up import read_times
from softfree.data.labels import (
    check_label_options,
    read_classes,
    read_findings,
    read_numbers,
    refuse_with_targets,
    tidy_labels,
)
from softfree.data.table_file import TableFile
from softfree.data.target_file import TargetSpec, read_targets
from softfree.data.targets import read_target_columns, tidy_targets
from softfree_runtime.core.task import Task


@dataclass(frozen=True)
class LabelColumns:
    """The label options of a command; see :func:`softfree.data.table.read_table`.

    Attributes:
        targets: Several targets instead; none for one.
        targets_file: File of ``targets``, if they are from one.
    """

    label: str = "label"
    event: str | None = None
    labels: Sequence[str] | None = None
    positive: str | None = None
    task: Target | None = None
    order: Sequence[str] | None = None
    targets: Sequence[TargetSpec] = ()
    targets_file: Path | None = None

    @classmethod
    def create(
        cls,
        label: str,
        event: str | None,
        labels: Sequence[str] | None,
        positive: str | None,
        task: Target | None,
        order: Sequence[str] | None,
        targets: Path | Sequence[TargetSpec] | None,
    ) -> LabelColumns:
        """Check the options, and read the file of several targets.

        Raises:
            UserError: They contradict each other, or the file is wrong.
        """
        check_label_options(label=label, labels=labels, positive=positive, task=task, order=order, event=event)
        one = cls(label, event, labels, positive, task, order)
        if targets is None:
            return one
        own = {"label": label, "labels": labels, "positive": positive, "task": task, "event": event}
        refuse_with_targets(own | {"classes_in_order": order})
        if isinstance(targets, Path):
            return replace(one, targets=read_targets(targets), targets_file=targets)
        return replace(one, targets=targets)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        if self.targets:
            return list(dict.fromkeys(name for spec in self.targets for name in spec.columns))
        first = [self.label] if self.labels is None else list(self.labels)
        return first if self.event is None else [*first, self.event]

    @property
    def remedy(self) -> str | None:
        """What to do about a missing column, if not the usual."""
        if self.targets_file is not None:
            return f"correct it in {self.targets_file}"
        return "the run has targets in these columns" if self.targets else None

    def tidy(self, path: Path, source: TableFile, classes: Sequence[str] | None) -> tuple[TableFile, pd.Series]:
        """Write labels in one way, and return the words that stand for no label."""
        none = pd.Series(dtype="string")
        if self.targets:
            return tidy_targets(path, source, self.targets), none
        if self.labels is not None:
            return source, none
        if self.task not in ("regression", "survival"):
            return tidy_labels(source, self.label, classes)
        tidied, words = tidy_labels(source, self.label, None)
        return replace(tidied, notes=source.notes), words  # the new notes are about classes

    def read(self, path: Path, rows: TableFile, classes: Sequence[str] | None) -> tuple[Task, np.ndarray]:
        """Read the labels: the task, and one target per row.

        Raises:
            UserError: Names lines of the file.
        """
        if self.targets:
            return read_target_columns(path, rows, self.targets)
        if self.task == "regression":
            return read_numbers(path, rows, self.label, classes)
        if self.event is not None:
            return read_times(path, rows, self.label, self.event, classes)
        if self.labels is not None:
            return read_findings(path, rows, self.labels, classes)
        ordered = self.task == "ordinal"
        return read_classes(path, rows, self.label, self.positive, classes, ordered=ordered, order=self.order)
