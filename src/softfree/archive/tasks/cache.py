"""The prepared images of a training, in the folder of its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from softfree.archive.inputs import source_to_text
from softfree.archive.task import Task, Words
from softfree.data.dataset import SampleDataset
from softfree.data.modalities.base import Preprocessing
from softfree_runtime.core.errors import ReadError
from softfree_runtime.core.files import printable
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SampleSource, name_of


@dataclass(frozen=True)
class Part:
    """Samples that are prepared in the same way.

    Attributes:
        sources: Source and frame of each.
        preprocessing: How they are prepared.
        numbers: Their numbers among all inputs.
    """

    sources: tuple[tuple[SampleSource, int | None], ...]
    preprocessing: Preprocessing
    numbers: range


@dataclass(frozen=True)
class FillCache(Task):
    """Prepares samples as a training does, and leaves them in its cache.

    Attributes:
        parts: Training and validation samples.
        cache: The folder.
    """

    name: ClassVar[str] = "cache"
    words: ClassVar[Words] = Words("prepare", "prepared", "Prepared samples")
    starts_anew: ClassVar[bool] = True  # the files of the cache say what is done

    parts: tuple[Part, ...]
    cache: str

    def __getstate__(self) -> dict[str, Any]:
        """Leave the sources at home: processes get theirs from the list of inputs."""
        return {"parts": tuple(replace(part, sources=()) for part in self.parts), "cache": self.cache}

    def open(self, root: Path) -> CacheFiller:
        """Open the reader."""
        return CacheFiller(self)

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return the kind of the samples."""
        return self.parts[0].preprocessing.kind, ()

    def samples(self) -> list[NamedSource]:
        """Return the samples of all parts, in their order."""
        return [(printable(name_of(source)), source, frame) for part in self.parts for source, frame in part.sources]

    def identity(self) -> dict[str, Any]:
        """Return samples and preprocessing."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.preprocessing}\n".encode())
            for source, frame in part.sources:
                digest.update(f"{source_to_text(source)} {frame}\n".encode())
        return {"samples_digest": digest.hexdigest()}


class CacheFiller:
    """Prepares inputs that are not in the cache; there is no model."""

    model_seconds = 0.0

    def __init__(self, task: FillCache) -> None:
        self.task = task

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        """Return one row for each input."""
        errors: dict[int, ReadError] = {}
        for part in self.task.parts:
            own = [index for index, number in enumerate(numbers) if number in part.numbers]
            dataset = SampleDataset(
                [samples[index][1] for index in own],
                None,
                part.preprocessing,
                frames=[samples[index][2] for index in own],
                cache=self.task.cache,
            )
            failed = dataset.read_all("", progress=False)
            errors |= {own[index]: error for index, error in (dataset.partial | failed).items()}
        return pa.Table.from_pylist([_row(sample[0], errors.get(index)) for index, sample in enumerate(samples)])


def _row(name: str, error: ReadError | None) -> dict[str, Any]:
    if error is None:
        return {"path": name, "status": "ok", "reason": ""}
    return {"path": name, "status": error.status, "reason": printable(str(error))}
