"""From label columns to a task and its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.data.table_file import TableFile, closest
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.core.task import Task
from softfree_runtime.sources.identity import is_no_label, may_be_no_label, plain_text, same_labels

_FINDING = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


def tidy_labels(table: TableFile, label: str, classes: Sequence[str] | None) -> tuple[TableFile, pd.Series]:
    """Join labels that look the same, and empty the cells of those that only say that there is none, such as ``nan``.

    Args:
        table: Its rows.
        label: The column with the classes.
        classes: Of a trained model; whatever these are called is a label.

    Returns:
        The table, with a note for what was joined and for words that may be meant for an empty cell; the words that
        were emptied, by row.
    """
    values = table.frame[label]
    fixed = {plain_text(name): name for name in classes or ()}
    forms = {form: fixed.get(plain_text(form), plain_text(form)) for form in values.dropna().unique()}
    notes = [
        f"label {name!r} is written in {count} ways that look the same (spaces, coding of letters): taken for one"
        for name, count in pd.Series(forms, dtype=object).value_counts().items()
        if count > 1
    ]
    tidy = values.map(forms)
    empty = [name for name in set(forms.values()) if is_no_label(name) and name not in fixed]
    doubtful = sorted(name for name in set(forms.values()) if may_be_no_label(name) and name not in fixed)
    notes += [
        f"label {name!r} ({int((tidy == name).sum())} rows) is taken for a class; leave cells without a label empty"
        for name in doubtful
    ]
    words = tidy[tidy.isin(empty)]
    tidy = tidy.mask(tidy.isin(empty))
    return replace(table, frame=table.frame.assign(**{label: tidy}), notes=(*table.notes, *notes)), words


def read_classes(
    path: Path, table: TableFile, label: str, positive: str | None, classes: Sequence[str] | None
) -> tuple[Task, np.ndarray]:
    """Read classes that exclude each other, from one column without empty cells.

    Args:
        path: Of the table, for messages.
        table: Its rows that belong to the task.
        label: The column.
        positive: The second class of a binary task; the last in order by default.
        classes: What a trained model tells apart, in its order; the sorted values of the column by default.

    Returns:
        The task and int64 ``(n,)`` class numbers.

    Raises:
        UserError: When a value is none of ``classes``, when there is only one class, or when ``positive`` is none
            of two.
    """
    values = table.frame[label]
    found = _in_order(values.unique())
    if classes is not None:
        names = list(classes)
        if unknown := [name for name in found if name not in names]:
            where = table.rows.name(values.index[values == unknown[0]])
            raise UserError(
                f"{path}: label {shortened(unknown[0])} ({where}) is no class of the model, which has {listed(names)};"
                " mend the label or give the row the split 'extra'"
            )
    elif len(found) < 2:
        raise UserError(f"{path}: column {label!r} has one class only, {shortened(found[0])}; expected two or more")
    else:
        _refuse_two_forms(path, table, label, found)
        names = found
    if positive is not None:
        names = _with_positive(path, label, names, positive, fixed=classes is not None)
    numbers = values.map({name: number for number, name in enumerate(names)})
    return Task("binary" if len(names) == 2 else "multiclass", tuple(names)), numbers.to_numpy(np.int64)


def _refuse_two_forms(path: Path, table: TableFile, label: str, names: list[str]) -> None:
    if two := same_labels(names):
        values = table.frame[label]
        first, second = sorted(two, key=lambda name: (values == name).argmax())
        one, other = (f"{shortened(n)} ({table.rows.name(values.index[values == n])})" for n in (first, second))
        raise UserError(f"{path}: labels {one} and {other} look like one class in two forms; write it in one")


def read_findings(
    path: Path, table: TableFile, labels: Sequence[str], classes: Sequence[str] | None
) -> tuple[Task, np.ndarray]:
    """Read findings that exclude nothing, from one column each: 1 present, 0 absent, empty unknown.

    Returns:
        The task and float32 ``(n, K)`` targets of 0, 1 and NaN.

    Raises:
        UserError: For any other value, or for a finding that is never, or always, present.
    """
    if len(set(labels)) < len(labels):
        raise UserError(f"labels {', '.join(labels)}: a column is named twice; name each once")
    if classes is not None and set(classes) != set(labels):
        raise UserError(f"labels {', '.join(labels)}: the model has the findings {', '.join(classes)}; name these")
    names = tuple(labels if classes is None else classes)
    targets = np.full((len(table.frame), len(names)), np.nan, np.float32)
    for number, name in enumerate(names):
        column = table.frame[name]
        known = column.notna()
        wrong = column[known & ~column.isin(list(_FINDING))]
        if len(wrong):
            raise UserError(
                f"{path}: {shortened(wrong.iloc[0])} in column {name!r} ({table.rows.name(wrong.index)}); expected 1"
                " (present), 0 (absent) or an empty cell (unknown or uncertain)"
            )
        targets[known.to_numpy(), number] = column[known].map(_FINDING).to_numpy(np.float32)
        values = np.unique(targets[known.to_numpy(), number])
        if classes is None and len(values) < 2:
            what = "empty" if len(values) == 0 else f"{values[0]:.0f} in every row"
            raise UserError(f"{path}: column {name!r} is {what}; expected some 0 and some 1; leave it out of labels")
    return Task("multilabel", names), targets


def _in_order(values: np.ndarray | pd.api.extensions.ExtensionArray) -> list[str]:
    """Class names in alphabetical order, whole numbers by value."""
    names = [str(value) for value in values]
    whole = all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names)
    return sorted(names, key=int) if whole else sorted(names)


def _with_positive(path: Path, label: str, names: list[str], positive: str, *, fixed: bool) -> list[str]:
    if len(names) != 2:
        raise UserError(f"positive {positive!r}: column {label!r} has {len(names)} classes; expected two")
    if positive not in names:
        meant = closest(positive, names)
        hint = f" (did you mean {meant!r}?)" if meant else ""
        raise UserError(f"{path}: positive {positive!r} is no class of column {label!r}{hint}; it has {listed(names)}")
    if fixed and positive != names[1]:
        raise UserError(f"positive {positive!r}: the model was trained with {names[1]!r} as the positive class")
    return sorted(names, key=lambda name: name == positive)
