"""Samples of equal shape share a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

WAITING = 4
"""Shapes of which samples wait for others of theirs: slides and bags have each their own, and are large."""


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""
        ...


T = TypeVar("T", bound=Shaped)


def of_equal_shape(samples: Iterable[tuple[int, T]], batch_size: int) -> Iterator[tuple[list[int], list[T]]]:
    """Gather numbered samples into batches, in order of their coming but for those that wait for company.

    Args:
        samples: Numbers and arrays.
        batch_size: The most that share a batch.

    Yields:
        Numbers and arrays of a batch, all of one shape.
    """
    waiting: dict[tuple[int, ...], tuple[list[int], list[T]]] = defaultdict(lambda: ([], []))
    for number, sample in samples:
        numbers, alike = waiting[tuple(sample.shape)]
        numbers.append(number)
        alike.append(sample)
        if len(numbers) == batch_size:
            yield waiting.pop(tuple(sample.shape))
        elif len(waiting) > WAITING:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
