"""Batches of sequences: drawn at random, then cut into groups of similar length, so that padding costs little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from softfree_lab.long_range.sequences import Sequences


class Group(NamedTuple):
    """Some samples of a batch, padded to the longest of them.

    Attributes:
        symbols: (towers B, N) int64, from 1; 0 is padding.
        mask: True for symbols (towers B, N), or None if there is no padding.
        labels: (B,) int64.
    """

    symbols: Tensor
    mask: Tensor | None
    labels: Tensor

    def to(self, device: torch.device | str) -> Group:
        """Move the tensors to a device."""
        return Group(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]


def batch_of_step(samples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return the samples of a step, from 0: each epoch is a new order of all samples, whose rest is left out.

    It depends on nothing else, so that a resumed training sees the same batches.
    """
    batch_size = min(batch_size, samples)
    epoch, number = divmod(step, samples // batch_size)
    order = _order(samples, seed, epoch)
    return order[number * batch_size : (number + 1) * batch_size]


_last: tuple[tuple[int, int, int], np.ndarray] | None = None


def _order(samples: int, seed: int, epoch: int) -> np.ndarray:
    global _last  # one permutation, since the steps of an epoch ask for the same
    key = (samples, seed, epoch)
    if _last is None or _last[0] != key:
        _last = key, np.random.default_rng((seed, epoch)).permutation(samples)
    return _last[1]


def groups(data: Sequences, samples: np.ndarray, max_symbols: int) -> Iterator[Group]:
    """Sort samples by length, and cut them into groups of at most ``max_symbols`` with padding, or one sample."""
    ordered = samples[np.argsort(data.lengths[samples], kind="stable")]
    lengths, start = data.lengths[ordered], 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or (end - start + 1) * int(lengths[end]) * data.towers > max_symbols:
            yield padded(data, ordered[start:end])
            start = end


def padded(data: Sequences, samples: np.ndarray) -> Group:
    """Gather samples, padded with zeros to the longest sequence."""
    numbers = (samples[:, None] * data.towers + np.arange(data.towers)).ravel()
    rows = [data.sequence(number) for number in numbers]
    lengths = np.array([len(row) for row in rows])
    symbols = np.zeros((len(rows), lengths.max()), np.int64)
    for target, row in zip(symbols, rows, strict=True):
        target[: len(row)] = row
        target[: len(row)] += 1
    mask = None
    if lengths.min() < lengths.max():
        mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
    return Group(torch.from_numpy(symbols), mask, torch.from_numpy(data.labels[samples]))
