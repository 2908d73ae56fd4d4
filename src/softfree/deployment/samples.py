"""Real samples for parity and calibration; those that cannot be read are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softfree.core.options import Split
from softfree.data.inputs import find_inputs
from softfree.data.table import Table
from softfree.inference.run import Run
from softfree.reporting.scoring import own_table
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.preprocessing.case import variables_of
from softfree_runtime.preprocessing.modalities import Preprocessing
from softfree_runtime.readers import DecodedImage, read_image
from softfree_runtime.sources.sample_source import SampleSource, file_of


@dataclass(frozen=True)
class Sample:
    """A sample: a source and a frame, or an image already read."""

    source: SampleSource | DecodedImage
    frame: int | None = None

    def load(self, preprocessing: Preprocessing) -> np.ndarray:
        """Read and preprocess it; ReadError if that fails."""
        return preprocessing.load(self.source, self.frame)

    def read(self, preprocessing: Preprocessing) -> Sample:
        """Check that it can be read; an image is kept, since it is preprocessed more than once."""
        if preprocessing.kind == "image":
            if isinstance(self.source, DecodedImage):
                return self
            return Sample(read_image(file_of(self.source).path, frame=self.frame))
        self.load(preprocessing)
        return self


@dataclass(frozen=True)
class Read:
    """Readable samples, and the errors of the others."""

    samples: list[Sample]
    failed: list[str]


def rows_of_run(run: Run, split: Split, moved: Path | None = None) -> Table:
    """Read the rows of the run's own table in ``split``.

    Args:
        run: The run.
        split: ``train``, ``val`` or ``test``.
        moved: New path of the table, if it was moved after training.

    Raises:
        UserError: The table is missing, was changed, or has no such row.
    """
    table = own_table(run, moved, how="softfree export ... --table TABLE")
    part = table.where(split)
    if part.frame.empty:
        raise UserError(f"the run's table has no row in split {split}; pass samples, a folder or a table")
    return part


def find_samples(run: Run, path: Path | None, split: Split, moved: Path | None = None) -> list[Sample]:
    """Find samples: those in a file, folder or table, or the rows of the run's own table in ``split``.

    Args:
        run: The run.
        path: File, folder or table given by the user.
        split: Split of the run's table, if ``path`` is None.
        moved: New path of that table, if it was moved.

    Raises:
        UserError: There are no samples.
    """
    if path is not None:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; pass samples, a folder or a table")
        columns = variables_of(run.preprocessing)
        found = find_inputs([path], None, run.preprocessing.kind, variables=columns)
        return [Sample(source, frame) for _, source, frame in found]
    return sources_of(rows_of_run(run, split, moved))


def sources_of(table: Table) -> list[Sample]:
    """Return the sample of each row."""
    return [Sample(source, frame) for source, frame in zip(table.sources, table.frames, strict=True)]


def read_evenly(sources: Sequence[Sample], count: int, what: str, preprocessing: Preprocessing) -> Read:
    """Read ``count`` of the samples, evenly spaced over all.

    Raises:
        UserError: A count below 1, or no readable sample; ``what`` names the purpose of the samples.
    """
    if count < 1:
        raise UserError(f"got {count} {preprocessing.kind}s for {what}; expected at least 1")
    indices = np.unique(np.linspace(0, len(sources) - 1, min(count, len(sources))).round().astype(int))
    samples, failed = [], []
    for index in indices:
        try:
            samples.append(sources[index].read(preprocessing))
        except ReadError as error:
            failed.append(str(error))
    if not samples:
        raise UserError(f"none of {len(indices)} {preprocessing.kind}s for {what} can be read, the first: {failed[0]}")
    return Read(samples, failed)
