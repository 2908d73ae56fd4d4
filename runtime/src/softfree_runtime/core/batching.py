"""Batches of samples of equal shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

WAITING = 4
"""Maximum number of open batches of different shapes; slides and bags rarely share a shape and are large."""


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...


T = TypeVar("T", bound=Shaped)


def of_equal_shape(samples: Iterable[tuple[int, T]], batch_size: int) -> Iterator[tuple[list[int], list[T]]]:
    """Group numbered samples into batches of one shape, in order of arrival except for those that wait.

    Args:
        samples: Numbers and arrays.
        batch_size: Maximum number of samples per batch.

    Yields:
        Numbers and arrays of one batch.
    """
    waiting: dict[tuple[int, ...], tuple[list[int], list[T]]] = defaultdict(lambda: ([], []))
    for number, sample in samples:
        numbers, batch = waiting[tuple(sample.shape)]
        numbers.append(number)
        batch.append(sample)
        if len(numbers) == batch_size:
            yield waiting.pop(tuple(sample.shape))
        elif len(waiting) > WAITING:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
