"""Sequences of symbols in memory and on disk: one flat array, where each starts, and the classes."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing


@dataclass(frozen=True, eq=False)
class Sequences:
    """Labeled samples, each of one sequence of symbols, or of two.

    Attributes:
        symbols: All sequences after each other, uint8.
        starts: Where each begins, and the end of the last, int64.
        labels: Class of each sample, int64.
        towers: Sequences per sample; those of a sample follow each other.
    """

    symbols: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    towers: int = 1

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sample, of its longest sequence, int64."""
        longest: np.ndarray = np.diff(self.starts).reshape(-1, self.towers).max(axis=1)
        return longest

    def sequence(self, number: int | np.integer) -> np.ndarray:
        """Return one sequence, uint8; sample i has the numbers from ``towers * i``."""
        return self.symbols[self.starts[number] : self.starts[number + 1]]

    def rows(self, samples: np.ndarray | slice) -> Sequences:
        """Return some samples."""
        numbers = np.arange(len(self))[samples]
        sequences = (numbers[:, None] * self.towers + np.arange(self.towers)).ravel()
        return joined([self.sequence(number) for number in sequences], self.labels[numbers], self.towers)

    def save(self, path: Path) -> None:
        """Write a compressed file, atomically."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, symbols=self.symbols, starts=self.starts, labels=self.labels, towers=self.towers)

    @classmethod
    def load(cls, path: Path) -> Sequences:
        """Read a file that :meth:`save` wrote.

        Raises:
            UserError: It is damaged or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                loaded = cls(file["symbols"], file["starts"], file["labels"], int(file["towers"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}); delete it, and it is made again") from None
        if len(loaded.starts) != len(loaded.labels) * loaded.towers + 1 or loaded.starts[-1] != len(loaded.symbols):
            raise UserError(f"{path} is damaged (its arrays do not fit together); delete it, and it is made again")
        return loaded


def joined(sequences: Sequence[np.ndarray], labels: Sequence[int] | np.ndarray, towers: int = 1) -> Sequences:
    """Put sequences (uint8, ``towers`` for each label) after each other."""
    starts = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=starts[1:])
    symbols = np.concatenate(sequences) if len(sequences) else np.zeros(0)
    return Sequences(symbols.astype(np.uint8, copy=False), starts, np.asarray(labels, np.int64), towers)


def merged(parts: Sequence[Sequences]) -> Sequences:
    """Put the samples of several parts after each other."""
    ends = np.cumsum([0] + [len(part.symbols) for part in parts])
    starts = [part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)]
    return Sequences(
        np.concatenate([part.symbols for part in parts]),
        np.concatenate([*starts, ends[-1:]]),
        np.concatenate([part.labels for part in parts]),
        parts[0].towers,
    )
