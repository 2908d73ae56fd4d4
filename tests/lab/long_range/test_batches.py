"""Batches and their groups of similar length."""

from __future__ import annotations

import numpy as np
import pytest

from softfree_lab.long_range.batches import batch_of_step, groups, padded
from softfree_lab.long_range.sequences import Sequences, joined, merged


def ragged(lengths: list[int], towers: int = 1) -> Sequences:
    """Sequence i of length l has the symbols i."""
    return joined([np.full(length, i) for i, length in enumerate(lengths)], np.arange(len(lengths) // towers), towers)


def test_an_epoch_has_every_sample_once_and_the_next_another_order() -> None:
    epochs = [
        [batch_of_step(12, 4, seed=5, step=step).tolist() for step in range(start, start + 3)] for start in (0, 3)
    ]
    for epoch in epochs:
        assert sorted(sample for batch in epoch for sample in batch) == list(range(12))
    assert epochs[0] != epochs[1]
    assert batch_of_step(12, 4, 5, 4).tolist() == epochs[1][1]
    assert len(batch_of_step(3, 32, 0, 7)) == 3


def test_groups_hold_each_sample_once_within_their_limit() -> None:
    data = ragged([3, 9, 4, 2, 9, 5])
    parts = list(groups(data, np.array([5, 1, 2, 3, 4]), max_symbols=18))
    assert [part.labels.tolist() for part in parts] == [[3, 2, 5], [1, 4]]
    assert all(part.symbols.numel() <= 18 for part in parts)
    for part in parts:
        for row, label in zip(part.symbols, part.labels, strict=True):
            assert row[row > 0].tolist() == [label + 1] * data.lengths[label]
    assert parts[0].mask is not None
    assert (parts[0].mask == (parts[0].symbols > 0)).all()
    assert parts[1].mask is None  # both of length 9


def test_a_sample_longer_than_the_limit_has_its_own_group() -> None:
    assert [len(part.labels) for part in groups(ragged([9, 9, 2]), np.arange(3), max_symbols=5)] == [1, 1, 1]


def test_towers_follow_each_other() -> None:
    data = ragged([1, 4, 2, 3], towers=2)
    group = padded(data, np.array([1, 0]))
    assert group.labels.tolist() == [1, 0]
    assert group.symbols.tolist() == [[3, 3, 0, 0], [4, 4, 4, 0], [1, 0, 0, 0], [2, 2, 2, 2]]
    assert data.rows(np.array([1])).sequence(1).tolist() == [3, 3, 3]


def test_parts_are_joined_in_order() -> None:
    whole = merged([ragged([1, 2]), ragged([3])])
    assert [whole.sequence(number).tolist() for number in range(3)] == [[0], [1, 1], [0, 0, 0]]
    assert whole.labels.tolist() == [0, 1, 0]
    assert whole.lengths.tolist() == pytest.approx([1, 2, 3])
