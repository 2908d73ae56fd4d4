"""Real pictures for proof and calibration: read, counted, and those that cannot be read reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softfree.data.readers import Picture, read_picture
from softfree.errors import ReadError, UserError
from softfree.prediction import find_inputs
from softfree.runs import Run
from softfree.scoring import open_table


@dataclass(frozen=True)
class Source:
    """Where a picture is, and which frame of it."""

    path: str | Picture
    frame: int | None = None

    def read(self) -> Picture:
        """Read it; ReadError when it gives none."""
        return self.path if isinstance(self.path, Picture) else read_picture(self.path, frame=self.frame)


@dataclass(frozen=True)
class Read:
    """Pictures that could be read, and the reasons of those that could not."""

    pictures: list[Picture]
    failed: list[str]


def find_pictures(run: Run, given: Path | None, split: str) -> list[Source]:
    """Find pictures: those that a folder, file or table stands for, or the rows of the run's own table in ``split``.

    Raises:
        UserError: there are none.
    """
    if given is not None:
        if not given.exists():
            raise UserError(f"{given}: no such file or folder; name pictures, a folder of them or a table")
        _, sources, frames = find_inputs([given], None)
        return [Source(path, frame) for path, frame in zip(sources, frames, strict=True)]
    frame = open_table(run).where(split).frame
    if frame.empty:
        raise UserError(f"the run's table has no row in split {split}; name pictures, a folder of them or a table")
    numbers = frame["frame"] if "frame" in frame else [None] * len(frame)
    return [
        Source(file, int(number) if isinstance(number, (int, np.integer)) else None)
        for file, number in zip(frame["file"], numbers, strict=True)
    ]


def read_evenly(sources: Sequence[Source], count: int, what: str) -> Read:
    """Read ``count`` of the pictures, taken evenly from all.

    Raises:
        UserError: a count below 1, or none of them can be read; ``what`` says what they are for.
    """
    if count < 1:
        raise UserError(f"got {count} pictures for {what}; expected at least 1")
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(count, len(sources))).round().astype(int))
    pictures, failed = [], []
    for number in chosen:
        try:
            pictures.append(sources[number].read())
        except ReadError as error:
            failed.append(str(error))
    if not pictures:
        raise UserError(f"none of {len(chosen)} pictures for {what} can be read, the first: {failed[0]}")
    return Read(pictures, failed)
