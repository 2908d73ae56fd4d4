"""Samples of equal shape share a batch."""

from __future__ import annotations

import numpy as np
import pytest

from softfree_runtime.core.batching import WAITING, of_equal_shape


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_sample_once_and_batches_of_one_shape(batch: int) -> None:
    sides = [3, 4, 3, 3, 5, 4, 3, 6, 7, 8, 9, 3]
    got = list(of_equal_shape([(number, np.full((2, side), number)) for number, side in enumerate(sides)], batch))
    assert sorted(number for numbers, _ in got for number in numbers) == list(range(len(sides)))
    for numbers, samples in got:
        assert len(numbers) == len(samples) <= batch
        assert [sample[0, 0] for sample in samples] == numbers
        assert len({sample.shape for sample in samples}) == 1


def test_full_batches_come_at_once_and_few_shapes_wait() -> None:
    taken: list[int] = []

    def samples():
        for number in range(20):
            taken.append(number)
            yield number, np.zeros((1, 1 + number))

    for numbers, _ in of_equal_shape(samples(), 4):
        assert len(taken) - numbers[0] <= WAITING + 1


def test_nothing_gives_nothing() -> None:
    assert list(of_equal_shape([], 3)) == []
