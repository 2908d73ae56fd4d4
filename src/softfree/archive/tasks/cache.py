"""The prepared images of a training, in the folder of its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    sources: tuple[tuple[SampleSource, int | None], ...]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class FillCache(Task):
    """Prepares samples as a training does, and leaves them in its cache.

    Attributes:
        parts: Training and validation samples; inputs are numbered through both.
        cache: The folder.
        firsts: Number of the first input of each part.
    """

    name: ClassVar[str] = "cache"
    words: ClassVar[Words] = Words("prepare", "prepared", "Prepared samples")
    starts_anew: ClassVar[bool] = True  # the files of the cache say what is done

    parts: tuple[Part, ...]
    cache: str
    firsts: tuple[int, ...]

    @classmethod
    def create(cls, parts: Sequence[Part], cache: Path) -> FillCache:
        """Number the inputs of the parts."""
        sizes = [len(part.sources) for part in parts]
        return cls(tuple(parts), str(cache.absolute()), tuple(sum(sizes[:number]) for number in range(len(sizes))))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the sources at home: processes get theirs from the list of inputs."""
        parts = tuple(Part((), part.preprocessing) for part in self.parts)
        return {"parts": parts, "cache": self.cache, "firsts": self.firsts}

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
        for place, (first, part) in enumerate(zip(self.task.firsts, self.task.parts, strict=True)):
            last = (*self.task.firsts, max(numbers) + 1)[place + 1]
            own = [index for index, number in enumerate(numbers) if first <= number < last]
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
