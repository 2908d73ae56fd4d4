"""Nested parts of the training patients: each part contains the smaller ones, and has about the classes' shares."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pandas as pd

from softfree.data.folds import Folds, strata
from softfree.data.follow_up import EVENT
from softfree.data.table import Table
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import single_targets


def positions(table: Table, seed: int) -> np.ndarray:
    """Place each patient between 0 and 1, evenly within each class, by a hash of its name.

    The rows whose position is below f are a fraction f of the patients. A patient with several classes counts as one
    of the rarest.

    Returns:
        The position of each row, ``(n,)``.
    """
    labels = strata(table)
    _, ranks, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rarity = np.argsort(np.argsort(counts, kind="stable"), kind="stable")[ranks]
    rows = pd.DataFrame({"patient": table.frame["patient"], "key": table.keys, "rarity": rarity})
    patients = rows.groupby("patient", as_index=False).agg(key=("key", "first"), rarity=("rarity", "min"))
    patients["hash"] = [blake2b(f"{seed} {key}".encode(), digest_size=8).hexdigest() for key in patients["key"]]
    within = patients.sort_values("hash").groupby("rarity")
    patients["position"] = (within.cumcount() + 0.5) / within["hash"].transform("size")
    return table.frame["patient"].map(patients.set_index("patient")["position"]).to_numpy()


def nested_folds(table: Table, folds: Folds, fraction: float, seed: int) -> Folds:
    """Return folds whose trainings see only a fraction of their patients; what is held out stays whole.

    Each fold of each draw becomes a draw of its own, in which other rows are in no fold.

    Args:
        table: The rows.
        folds: The folds, of one or more draws.
        fraction: Share of the training patients.
        seed: Of the choice of patients; each draw has its own.

    Raises:
        UserError: A part lacks a class.
    """
    draws = []
    for repeat, numbers in enumerate(folds.numbers):
        for fold, name in enumerate(folds.names):
            training = np.flatnonzero((numbers >= 0) & (numbers != fold))
            part = table.take(training)
            kept = positions(part, seed + repeat * len(folds.names) + fold) < fraction
            _check_classes(part, kept, fraction, name)
            draw = np.full(len(numbers), -1)
            draw[numbers == fold] = fold
            draw[training[kept]] = numbers[training[kept]]
            draws.append(draw)
    return Folds(folds.names, np.array(draws), f"{folds.made}; {fraction:g} of the training patients")


def training_rows(folds: Folds, draw: int) -> np.ndarray:
    """Return the training rows of a draw of :func:`nested_folds`, boolean ``(n,)``."""
    numbers = folds.numbers[draw]
    return (numbers >= 0) & (numbers != draw % len(folds.names))


def _check_classes(part: Table, kept: np.ndarray, fraction: float, fold: str) -> None:
    for name, present in _present(part).items():
        if present.any() and not present[kept].any():
            raise UserError(
                f"{fraction:g} of the training patients of fold {fold} leaves none with {name}; use larger fractions"
            )


def _present(part: Table) -> dict[str, np.ndarray]:
    """Return which rows have each class or finding, the event, or of several targets a known number."""
    present: dict[str, np.ndarray] = {}
    for target, task, targets in single_targets(part.task, part.targets):
        of = f" of target {target!r}" if target else ""
        if task.timed:
            present[f"the event{of}"] = targets[:, EVENT] == 1
        elif task.numeric:
            present |= {f"a known value{of}": ~np.isnan(targets)} if target else {}
        else:
            columns = (targets == k if task.exclusive else targets[:, k] == 1 for k in range(len(task.classes)))
            present |= {f"{name!r}{of}": column for name, column in zip(task.classes, columns, strict=True)}
    return present


def check_fractions(fractions: Sequence[float]) -> list[float]:
    """Sort fractions of the training patients.

    Raises:
        UserError: Fewer than two, or one that is not above 0 and at most 1.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UserError(f"--fractions {fraction:g}: expected numbers above 0 and at most 1")
    if len(set(fractions)) < 2:
        raise UserError(f"--fractions {list(fractions)}: expected two or more, such as '[0.25, 0.5, 1]'")
    return sorted({float(fraction) for fraction in fractions})
