"""A split by patient in which every class is spread as evenly as its patients allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from softfree.data.task import Task
from softfree.errors import UserError

_SMALLEST = 1e-9  # a fraction below is what is left of 1 - 0.8 - 0.2


def split_patients(
    task: Task,
    targets: np.ndarray,
    patients: np.ndarray,
    keys: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Draw patients into splits; equal seeds give equal splits whatever the order of the rows.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML
    PKDD 2011) over patients instead of rows: the class with the fewest patients first, each patient goes where that
    class is most wanting, the largest patients first. scikit-learn's StratifiedGroupKFold offers equal folds only.
    Findings count as two classes, present and absent.

    Args:
        task: the classes.
        targets: ``(n,)`` or ``(n, K)``, see :class:`Task`.
        patients: ``(n,)`` numbers from 0, without gaps.
        keys: ``(n,)`` names of the patients, the same for all rows of one; they decide the order of the draw.
        fractions: part of the rows wanted for each split, summing to 1.
        seed: of the draw.

    Returns:
        Names of splits, ``(n,)``.

    Raises:
        UserError: for fractions outside [0, 1], and for a class with too few patients to be in every split.
    """
    if any(not -_SMALLEST <= part <= 1 + _SMALLEST for part in fractions.values()):
        wanted = ", ".join(f"{name} {part:g}" for name, part in fractions.items())
        raise UserError(f"split into {wanted}: expected parts from 0 to 1 that sum to 1")
    names = [name for name, part in fractions.items() if part > _SMALLEST]
    _, first, sizes = np.unique(patients, return_index=True, return_counts=True)
    counts = _counts(task, targets, patients, len(sizes))  # (P, M)
    drawn = b"".join(blake2b(f"{seed} {keys[row]}".encode(), digest_size=8).digest() for row in first)
    order = np.lexsort((np.frombuffer(drawn, "<u8"), -sizes))
    chosen = _assign(counts, sizes, order, np.array([fractions[name] for name in names]))
    _refuse_thin_classes(task, counts, chosen, len(names))
    return np.array(names, dtype=object)[chosen][patients]


def _counts(task: Task, targets: np.ndarray, patients: np.ndarray, number: int) -> np.ndarray:
    """Rows of each patient in each class, ``(P, M)``; findings have a column for present and one for absent."""
    if task.exclusive:
        marks = targets[:, None] == np.arange(len(task.classes))
    else:
        marks = np.concatenate([targets == 1, targets == 0], axis=1)
    counts = np.zeros((number, marks.shape[1]), np.int64)
    np.add.at(counts, patients, marks)
    return counts


def _assign(counts: np.ndarray, sizes: np.ndarray, order: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the split number of each patient, ``(P,)``."""
    wanting = parts[:, None] * counts.sum(axis=0)  # (S, M): rows of each class that each split still wants
    room = parts * sizes.sum()  # (S,)
    chosen = np.full(len(sizes), -1)
    everywhere = list(range(len(parts)))
    present = np.zeros(wanting.shape, bool)
    for column in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        members = order[(counts[order, column] > 0) & (chosen[order] < 0)]
        for left, patient in zip(range(len(members), 0, -1), members, strict=True):
            choices = everywhere
            if left <= len(everywhere):
                # The last patients of a class go where it would be missing otherwise.
                lacking = [split for split in everywhere if not present[split, column]]
                choices = lacking if lacking and left <= len(lacking) else everywhere
            needs = [(wanting[split, column], room[split]) for split in choices]
            split = choices[needs.index(max(needs))]
            chosen[patient] = split
            wanting[split] -= counts[patient]
            room[split] -= sizes[patient]
            present[split] |= counts[patient] > 0
    return chosen


def _refuse_thin_classes(task: Task, counts: np.ndarray, chosen: np.ndarray, splits: int) -> None:
    for number, name in enumerate(task.classes):
        having = counts[:, number] > 0
        if having.any() and len(np.unique(chosen[having])) < splits:
            raise UserError(
                f"class {name!r} has {having.sum()} patient{'s' if having.sum() > 1 else ''}, too few to be in each of"
                f" {splits} splits; add some, give the rows the split 'extra', or fill in a split column yourself"
            )
