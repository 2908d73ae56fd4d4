"""Stable splits by patient: a patient's split depends on its name and the seed, not on the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

_SMALLEST = 1e-9  # below, a fraction is rounding error, as in 1 - 0.8 - 0.2
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
    sizes of the splits are random, with a standard deviation of about sqrt(n p (1 - p)) patients. Only if a class had
    less than half of its share in a split (at least one patient), patients with the nearest hashes move there.

    Args:
        task: The task.
        targets: ``(n,)`` or ``(n, K)``, see :class:`Task`.
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
    if any(not -_SMALLEST <= part <= 1 + _SMALLEST for part in fractions.values()):
        wanted = ", ".join(f"{name} {part:g}" for name, part in fractions.items())
        raise UserError(f"split into {wanted}: expected parts from 0 to 1 that sum to 1")
    names = [name for name, part in fractions.items() if part > _SMALLEST]
    parts = np.array([fractions[name] for name in names])
    _, first = np.unique(patients, return_index=True)
    hashed = b"".join(blake2b(f"{seed} {keys[row]}".encode(), digest_size=8).digest() for row in first)
    drawn = np.frombuffer(hashed, "<u8") / 2.0**64  # (P,), from 0 to 1
    chosen = np.searchsorted(parts.cumsum()[:-1], drawn, side="right")
    fixed = np.zeros(len(chosen), bool)
    if known is not None:
        given = np.array([names.index(known[row]) if known[row] else -1 for row in first])
        fixed = given >= 0
        chosen = np.where(fixed, given, chosen)
    having = _having(task, targets, patients, len(first))  # (P, M)
    _give_each_its_share(having, chosen, drawn, parts, fixed)
    _refuse_thin_classes(task, having, chosen, len(names))
    return np.array(names, dtype=object)[chosen][patients]


def _having(task: Task, targets: np.ndarray, patients: np.ndarray, number: int) -> np.ndarray:
    """Return whether each patient has rows of each class, ``(P, M)``; findings count as present and as absent."""
    if task.exclusive:
        marks = targets[:, None] == np.arange(len(task.classes))
    else:
        marks = np.concatenate([targets == 1, targets == 0], axis=1)
    having = np.zeros((number, marks.shape[1]), bool)
    np.logical_or.at(having, patients, marks)
    return having


def _give_each_its_share(
    having: np.ndarray, chosen: np.ndarray, drawn: np.ndarray, parts: np.ndarray, fixed: np.ndarray
) -> None:
    """Reassign patients in ``chosen`` until each split has half its share of each class, rarest class first."""
    least = np.maximum(1, (_LEAST * parts[:, None] * having.sum(axis=0)).astype(int))  # (S, M)
    ends = parts.cumsum()
    done: list[int] = []
    for column in np.argsort(having.sum(axis=0), kind="stable"):
        done.append(int(column))
        for split in range(len(parts)):
            away = np.maximum(ends[split] - parts[split] - drawn, drawn - ends[split])  # distance to the split
            while having[chosen == split, column].sum() < least[split, column]:
                movable = np.flatnonzero(having[:, column] & (chosen != split) & ~fixed)
                counts = np.stack([having[chosen == other].sum(axis=0) for other in range(len(parts))])  # (S, M)
                left = counts[chosen[movable]] - having[movable]  # of each class, in the patient's current split
                spared = (left >= least[chosen[movable]]) | ~having[movable]
                kept = (left[:, done] >= 1) | ~having[movable][:, done]
                # A split may fall below half its share if it keeps one patient of each settled class.
                candidates = movable[spared.all(axis=1)] if spared.all(axis=1).any() else movable[kept.all(axis=1)]
                if not len(candidates):
                    break
                chosen[candidates[away[candidates].argmin()]] = split


def _refuse_thin_classes(task: Task, having: np.ndarray, chosen: np.ndarray, splits: int) -> None:
    for number, name in enumerate(task.classes):
        own = having[:, number]
        if own.any() and len(np.unique(chosen[own])) < splits:
            raise UserError(
                f"class {name!r} has {own.sum()} patient{'s' if own.sum() > 1 else ''}, too few to be in each of"
                f" {splits} splits; add some, give the rows the split 'extra', or fill in a split column yourself"
            )
