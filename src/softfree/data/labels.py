"""Task and targets from label columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.core.options import Target
from softfree.data.table_file import TableFile, closest
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.core.task import Task, TaskKind
from softfree_runtime.sources.identity import is_no_label, may_be_no_label, plain_text, same_labels

LABEL_OPTIONS = ("label", "labels", "positive", "task", "classes_in_order", "variables", "categorical")
"""Options that say what a table's labels and variables are; arguments of :func:`softfree.data.table.read_table`."""
_FINDING = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


def label_options(options: object) -> dict[str, Any]:
    """Return the :data:`LABEL_OPTIONS` of a command's options."""
    return {name: getattr(options, name) for name in LABEL_OPTIONS}


def check_label_options(
    *, labels: Sequence[str] | None, positive: str | None, task: Target | None, order: Sequence[str] | None
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UserError: Names them.
    """
    if positive is not None and labels is not None:
        raise UserError("positive is for one label column with two classes; findings in several columns have none")
    if order is not None and task != "ordinal":
        raise UserError("classes_in_order is for --task ordinal; add it, or leave the order out")
    if task is None:
        return
    for name, value in (("labels", labels), ("positive", positive)):
        if value is not None:
            raise UserError(f"--task {task} takes its target from one column, --label; leave out --{name}")


def tidy_labels(table: TableFile, label: str, classes: Sequence[str] | None) -> tuple[TableFile, pd.Series]:
    """Join labels that look the same, and clear those that stand for a missing label, such as ``nan``.

    Args:
        table: Rows of the table.
        label: Column with the classes.
        classes: Classes of a trained model, which are always labels.

    Returns:
        The table, with notes on joined labels and on words that may mean an empty cell; and the cleared words, by row.
    """
    values = table.frame[label]
    fixed = {plain_text(name): name for name in classes or ()}
    forms = {form: fixed.get(plain_text(form), plain_text(form)) for form in values.dropna().unique()}
    notes = [
        f"label {name!r} is written in {count} ways that look the same (spaces, encoding of letters): treated as one"
        for name, count in pd.Series(forms, dtype=object).value_counts().items()
        if count > 1
    ]
    tidy = values.map(forms)
    empty = [name for name in set(forms.values()) if is_no_label(name) and name not in fixed]
    doubtful = sorted(name for name in set(forms.values()) if may_be_no_label(name) and name not in fixed)
    notes += [
        f"label {name!r} ({int((tidy == name).sum())} rows) is treated as a class; leave cells without a label empty"
        for name in doubtful
    ]
    words = tidy[tidy.isin(empty)]
    tidy = tidy.mask(tidy.isin(empty))
    return replace(table, frame=table.frame.assign(**{label: tidy}), notes=(*table.notes, *notes)), words


def read_classes(
    path: Path,
    table: TableFile,
    label: str,
    positive: str | None,
    classes: Sequence[str] | None,
    *,
    ordered: bool = False,
    order: Sequence[str] | None = None,
) -> tuple[Task, np.ndarray]:
    """Read mutually exclusive classes from one column without empty cells.

    Args:
        path: Path of the table, for messages.
        table: Rows of the task.
        label: The column.
        positive: The second class of a binary task; default: the last in order.
        classes: Classes of a trained model, in its order; default: the sorted values of the column.
        ordered: Whether the classes have an order.
        order: All of them, from the lowest to the highest; default: whole numbers by value.

    Returns:
        The task and int64 ``(n,)`` class numbers.

    Raises:
        UserError: A value is not among ``classes``, there is only one class, ``positive`` is not one of two, or the
            order of the classes is unknown or not that of these classes.
    """
    values = table.frame[label]
    present = _in_order(values.unique())
    if classes is not None:
        names = list(classes)
        if unknown := [name for name in present if name not in names]:
            where = table.rows.name(values.index[values == unknown[0]])
            raise UserError(
                f"{path}: label {shortened(unknown[0])} ({where}) is not a class of the model ({listed(names)});"
                " correct the label or give the row the split 'extra'"
            )
    elif len(present) < 2:
        raise UserError(f"{path}: column {label!r} has only one class, {shortened(present[0])}; expected two or more")
    else:
        _refuse_two_forms(path, table, label, present)
        names = _with_order(path, label, present, order) if ordered else present
    if positive is not None:
        names = _with_positive(path, label, names, positive, fixed=classes is not None)
    numbers = values.map({name: number for number, name in enumerate(names)})
    kind: TaskKind = "ordinal" if ordered else "binary" if len(names) == 2 else "multiclass"
    return Task(kind, tuple(names)), numbers.to_numpy(np.int64)


def _refuse_two_forms(path: Path, table: TableFile, label: str, names: list[str]) -> None:
    if pair := same_labels(names):
        values = table.frame[label]
        first, second = sorted(pair, key=lambda name: (values == name).argmax())
        first_form, second_form = (
            f"{shortened(name)} ({table.rows.name(values.index[values == name])})" for name in (first, second)
        )
        raise UserError(
            f"{path}: labels {first_form} and {second_form} look like one class in two forms; write it in one"
        )


def read_numbers(path: Path, table: TableFile, label: str, classes: Sequence[str] | None) -> tuple[Task, np.ndarray]:
    """Read the numbers of a regression from one column without empty cells.

    Args:
        path: Path of the table, for messages.
        table: Rows of the task.
        label: The column.
        classes: The name that a trained model has for it; default: that of the column.

    Returns:
        The task and finite float64 ``(n,)`` targets.

    Raises:
        UserError: Text, an infinite number, or a column in which all numbers are equal.
    """
    values = table.frame[label]
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = values[~np.isfinite(numbers)]
    if len(wrong):
        raise UserError(
            f"{path}: {shortened(wrong.iloc[0])} in column {label!r} ({table.rows.name(wrong.index)}) is not a finite"
            " number; expected digits with a decimal point and no unit, or an empty cell to leave the row out"
        )
    if classes is None and np.ptp(numbers) == 0:
        raise UserError(
            f"{path}: column {label!r} is {numbers[0]:g} in every row; expected numbers that differ, or there is"
            " nothing to predict"
        )
    return Task("regression", tuple(classes) if classes is not None else (label,)), numbers


def number_strata(targets: np.ndarray, most: int) -> np.ndarray:
    """Return the quantile ``(n,)``, from 0, that each number lies in, of up to five with about equal counts."""
    cuts = np.quantile(targets, np.linspace(0, 1, max(1, min(5, most)) + 1)[1:-1])
    return np.searchsorted(cuts, targets, side="right")


def read_findings(
    path: Path, table: TableFile, labels: Sequence[str], classes: Sequence[str] | None
) -> tuple[Task, np.ndarray]:
    """Read independent findings from one column each: 1 present, 0 absent, empty unknown.

    Returns:
        The task and float32 ``(n, K)`` targets of 0, 1 and NaN.

    Raises:
        UserError: Any other value, or a finding that is never, or always, present.
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
            raise UserError(f"{path}: column {name!r} is {what}; expected some 0 and some 1; remove it from the labels")
    return Task("multilabel", names), targets


def _in_order(values: np.ndarray | pd.api.extensions.ExtensionArray) -> list[str]:
    """Return class names in alphabetical order, whole numbers by value."""
    names = [str(value) for value in values]
    return sorted(names, key=int) if _are_whole(names) else sorted(names)


def _are_whole(names: Sequence[str]) -> bool:
    return all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names)


def _with_order(path: Path, label: str, present: list[str], order: Sequence[str] | None) -> list[str]:
    """Return ordered classes from the lowest to the highest, which is never guessed from words."""
    if len(present) == 2:
        raise UserError(f"{path}: column {label!r} has two classes, {listed(present)}; an ordinal task needs three or"
                        " more: leave out --task ordinal")  # fmt: skip
    if order is None:
        if _are_whole(present):
            return present
        example = f"--classes-in-order '[{', '.join(present)}]'"
        raise UserError(
            f"{path}: the classes of column {label!r} are not whole numbers, so that their order is not known; give it"
            f" from the lowest to the highest, such as {example}"
        )
    names = [plain_text(str(name)) for name in order]
    if sorted(set(names)) != sorted(names) or set(names) != set(present):
        got, expected = (listed([repr(name) for name in some], len(some)) for some in (names, present))
        raise UserError(
            f"{path}: --classes-in-order has {got}; expected each class of column {label!r} once: {expected}"
        )
    return names


def _with_positive(path: Path, label: str, names: list[str], positive: str, *, fixed: bool) -> list[str]:
    if len(names) != 2:
        raise UserError(f"positive {positive!r}: column {label!r} has {len(names)} classes; expected two")
    if positive not in names:
        meant = closest(positive, names)
        hint = f" (did you mean {meant!r}?)" if meant else ""
        raise UserError(
            f"{path}: positive {positive!r} is not a class of column {label!r}{hint}; it has {listed(names)}"
        )
    if fixed and positive != names[1]:
        raise UserError(f"positive {positive!r}: the model was trained with {names[1]!r} as the positive class")
    return sorted(names, key=lambda name: name == positive)
