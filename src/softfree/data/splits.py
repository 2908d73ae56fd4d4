"""Stable splits by patient: a patient's split depends on its name and the seed, not on the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from softfree.data.follow_up import EVENT
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import Targets, single_targets
from softfree_runtime.core.task import Task

_SMALLEST = 1e-9  # below, a fraction is rounding error, as in 1 - 0.8 - 0.2
_PATIENTS_OF_STRATUM = 6  # at least, so that each split can have some
_LEAST = 0.5  # minimum share of a split in a class, relative to its fraction


def split_patients(
    task: Task,
    targets: np.ndarray,
    patients: np.ndarray,
    keys: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    known: Sequence[str] | None = None,
) -> np.ndarray:
    """Assign patients to splits by a hash of their names.

    No patient moves when others are added or removed, when rows are reordered, or when labels change; therefore the
    sizes of the splits are random, with a standard deviation of about sqrt(n p (1 - p)) patients. Only if a class has
    less than half of its share in a split (at least one patient), patients with the nearest hashes move there.

    Args:
        task: The task.
        targets: ``(n,)`` or ``(n, K)``, see :class:`Task`; of several targets each has its classes in every split.
        patients: ``(n,)`` numbers of the patients, from 0 without gaps.
        keys: ``(n,)`` names of the patients, equal for all rows of a patient.
        fractions: Fraction of the patients for each split, summing to 1.
        seed: Seed of the hash.
        known: ``(n,)`` earlier splits, empty for rows to be assigned; equal for all rows of a patient.

    Returns:
        Names of splits, ``(n,)``.

    Raises:
        UserError: Fractions outside [0, 1], or a class with too few patients for every split.
    """
    if any(not -_SMALLEST <= share <= 1 + _SMALLEST for share in fractions.values()):
        text = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
        raise UserError(f"split into {text}: expected fractions from 0 to 1 that sum to 1")
    names = [name for name, share in fractions.items() if share > _SMALLEST]
    shares = np.array([fractions[name] for name in names])
    _, first = np.unique(patients, return_index=True)
    hashed = b"".join(blake2b(f"{seed} {keys[row]}".encode(), digest_size=8).digest() for row in first)
    uniform = np.frombuffer(hashed, "<u8") / 2.0**64  # (P,), from 0 to 1
    assigned = np.searchsorted(shares.cumsum()[:-1], uniform, side="right")
    fixed = np.zeros(len(assigned), bool)
    if known is not None:
        previous = np.array([names.index(known[row]) if known[row] else -1 for row in first])
        fixed = previous >= 0
        assigned = np.where(fixed, previous, assigned)
    by_target = [
        (one, _patients_by_class(one, own, patients, len(first))) for _, one, own in single_targets(task, targets)
    ]
    _balance(np.hstack([has_class for _, has_class in by_target]), assigned, uniform, shares, fixed)  # (P, M)
    for one, has_class in by_target:
        _refuse_rare_classes(one, has_class, assigned, len(names))
    return np.array(names, dtype=object)[assigned][patients]


def _patients_by_class(task: Task, targets: np.ndarray, patients: np.ndarray, count: int) -> np.ndarray:
    """Return whether each patient has rows of each class, ``(P, M)``; findings count as present and as absent.

    The first class of numbers is one that all have whose number is known, and others are their fifths; those of
    survival are the event and its absence.
    """
    if task.numeric:
        known = ~np.isnan(targets)
        fifths = np.full(len(targets), -1)
        fifths[known] = number_strata(targets[known], count // _PATIENTS_OF_STRATUM)
        marks = np.concatenate([known[:, None], fifths[:, None] == np.unique(fifths[known])], axis=1)
    elif task.timed:
        marks = targets[:, EVENT, None] == np.array([1, 0])
    elif task.exclusive:
        marks = targets[:, None] == np.arange(len(task.classes))
    else:
        marks = np.concatenate([targets == 1, targets == 0], axis=1)
    has_class = np.zeros((count, marks.shape[1]), bool)
    np.logical_or.at(has_class, patients, marks)
    return has_class


def number_strata(targets: np.ndarray, most: int) -> np.ndarray:
    """Return the quantile ``(n,)``, from 0, that each number lies in, of up to five with about equal counts."""
    cuts = np.quantile(targets, np.linspace(0, 1, max(1, min(5, most)) + 1)[1:-1])
    return np.searchsorted(cuts, targets, side="right")


def strata_in_words(task: Task) -> str:
    """Say by what patients are stratified."""
    if isinstance(task, Targets):
        return "each target"
    return "fifths of the number" if task.numeric else "event" if task.timed else "class"


def _balance(
    has_class: np.ndarray, assigned: np.ndarray, uniform: np.ndarray, shares: np.ndarray, fixed: np.ndarray
) -> None:
    """Change ``assigned`` until each split has half its share of each class, rarest class first."""
    minimum = np.maximum(1, (_LEAST * shares[:, None] * has_class.sum(axis=0)).astype(int))  # (S, M)
    ends = shares.cumsum()
    settled: list[int] = []
    for column in np.argsort(has_class.sum(axis=0), kind="stable"):
        settled.append(int(column))
        for split in range(len(shares)):
            distance = np.maximum(ends[split] - shares[split] - uniform, uniform - ends[split])
            while has_class[assigned == split, column].sum() < minimum[split, column]:
                movable = np.flatnonzero(has_class[:, column] & (assigned != split) & ~fixed)
                counts = np.stack([has_class[assigned == other].sum(axis=0) for other in range(len(shares))])  # (S, M)
                # Other patients of each class in the current split of a movable patient.
                remaining = counts[assigned[movable]] - has_class[movable]
                above_minimum = (remaining >= minimum[assigned[movable]]) | ~has_class[movable]
                keeps_one = (remaining[:, settled] >= 1) | ~has_class[movable][:, settled]
                # A split may fall below half its share if it keeps one patient of each settled class.
                allowed = above_minimum.all(axis=1)
                candidates = movable[allowed if allowed.any() else keeps_one.all(axis=1)]
                if not len(candidates):
                    break
                assigned[candidates[distance[candidates].argmin()]] = split


def _refuse_rare_classes(task: Task, has_class: np.ndarray, assigned: np.ndarray, splits: int) -> None:
    for number, name in enumerate(task.classes):
        own = has_class[:, number]
        if own.any() and len(np.unique(assigned[own])) < splits:
            what = f"column {name!r}" if task.numeric else "the event" if task.timed else f"class {name!r}"
            raise UserError(
                f"{what} has {own.sum()} patient{'s' if own.sum() > 1 else ''}, too few for"
                f" {splits} splits; add some, give the rows the split 'extra', or fill in a split column yourself"
            )
