"""Real samples for proof and calibration: found, read once, and those that cannot be read reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softfree.data.table import Table
from softfree.inference.predict import find_inputs
from softfree.inference.run import Run
from softfree.reporting.scoring import own_table
from softfree.training.options import Split
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.preprocessing.modalities import Preprocessing
from softfree_runtime.readers import DecodedImage, read_image


@dataclass(frozen=True)
class Source:
    """Where a sample is, and which frame of it; or an image that was read."""

    path: str | DecodedImage
    frame: int | None = None

    def prepared(self, preprocessing: Preprocessing) -> np.ndarray:
        """Read and prepare it; ReadError when it gives no sample."""
        return preprocessing.load(self.path, self.frame)

    def read(self, preprocessing: Preprocessing) -> Source:
        """Make sure that it can be read; an image is kept, since it is prepared more than once."""
        if preprocessing.kind == "image":
            return Source(self.path if isinstance(self.path, DecodedImage) else read_image(self.path, frame=self.frame))
        self.prepared(preprocessing)
        return self


@dataclass(frozen=True)
class Read:
    """Samples that can be read, and the reasons of those that cannot."""

    samples: list[Source]
    failed: list[str]


def rows_of_run(run: Run, split: Split, moved: Path | None = None) -> Table:
    """Read the rows of the run's own table in ``split``, wherever the table lies now.

    Args:
        run: The run.
        split: ``train``, ``val`` or ``test``.
        moved: Where the table lies now; default: where it was in training.

    Raises:
        UserError: It is not there, another one, or has no such row.
    """
    table = own_table(run, moved, how="softfree export ... --table TABLE")
    part = table.where(split)
    if part.frame.empty:
        raise UserError(f"the run's table has no row in split {split}; name samples, a folder of them or a table")
    return part


def find_samples(run: Run, given: Path | None, split: Split, moved: Path | None = None) -> list[Source]:
    """Find samples: those that a folder, file or table stands for, or the rows of the run's own table in ``split``.

    Args:
        run: The run.
        given: What the user names.
        split: Of the run's table, where nothing is named.
        moved: Where that table lies now.

    Raises:
        UserError: There are none.
    """
    if given is not None:
        if not given.exists():
            raise UserError(f"{given}: no such file or folder; name samples, a folder of them or a table")
        group = run.groups_by_patient
        return [Source(path, frame) for _, path, frame in find_inputs([given], None, run.preprocessing.kind, group)]
    return sources_of(rows_of_run(run, split, moved))


def sources_of(table: Table) -> list[Source]:
    """Find the sample of each row."""
    return [Source(file, frame) for file, frame in zip(table.files, table.frames, strict=True)]


def read_evenly(sources: Sequence[Source], count: int, what: str, preprocessing: Preprocessing) -> Read:
    """Read ``count`` of the samples, taken evenly from all.

    Raises:
        UserError: A count below 1, or none of them can be read; ``what`` says what they are for.
    """
    if count < 1:
        raise UserError(f"got {count} {preprocessing.kind}s for {what}; expected at least 1")
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(count, len(sources))).round().astype(int))
    samples, failed = [], []
    for number in chosen:
        try:
            samples.append(sources[number].read(preprocessing))
        except ReadError as error:
            failed.append(str(error))
    if not samples:
        raise UserError(f"none of {len(chosen)} {preprocessing.kind}s for {what} can be read, the first: {failed[0]}")
    return Read(samples, failed)
