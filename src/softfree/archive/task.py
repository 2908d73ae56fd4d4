"""What is done with the inputs of an archive: the part of bulk work that differs from command to command."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.core.options import BulkOptions
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.inputs import NamedSource


class Handler(Protocol):
    """What a process does with inputs; opened by a task.

    Attributes:
        model_seconds: Time spent in the model so far; the rest is reading and preparing.
    """

    model_seconds: float

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int], /) -> pa.Table:
        """Return one row for each sample, with columns path, status and reason; ``numbers`` are those of the inputs.

        Files beside the row are written under a temporary name and renamed: the same inputs may be handled again.
        """
        ...


@dataclass(frozen=True)
class Words:
    """How messages name a task: to ``do`` it, that it is ``done``, and the title of its summary."""

    do: str
    done: str
    title: str


class Task(ABC):
    """What is done with each input: a value that travels to processes and nodes.

    A subclass is a frozen dataclass of settings. The machinery lists the inputs, gives them to processes in blocks,
    writes their rows, and goes on after interruptions.

    Attributes:
        name: Name in ``archive.json``.
        words: For messages.
        results: Name of the Parquet file at the end, without suffix.
        block: Inputs that a process takes at a time, unless an option says so.
        scores: Pattern of the columns whose distribution the summary shows.
        keeps_columns: Whether the rows get the other columns of an input table.
        starts_anew: Whether each command goes over all inputs again, because files beside the rows say what is done.
    """

    name: ClassVar[str]
    words: ClassVar[Words]
    results: ClassVar[str] = "results"
    block: ClassVar[int] = 32
    scores: ClassVar[str] = "(?!)"
    keeps_columns: ClassVar[bool] = False
    starts_anew: ClassVar[bool] = False

    @abstractmethod
    def open(self, root: Path) -> Handler:
        """Open what handles inputs, in the process that does; ``root`` is the folder of the work.

        Raises:
            UserError: It cannot be used.
        """

    @abstractmethod
    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return the kind of the samples, and the columns with clinical variables that a table may have."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on beside the inputs: digest of the model, options."""

    def samples(self) -> list[NamedSource] | None:
        """Return the inputs if the task lists them itself; None to list what the command was given."""
        return None

    def facts(self) -> dict[str, Any]:
        """Return what else is written into ``archive.json``; called once, and not compared."""
        return {}

    def reference_scores(self) -> Mapping[str, np.ndarray]:
        """Return scores of known samples by column, to compare with those of the archive."""
        return {}

    def finish(self, folder: ArchiveFolder) -> None:  # noqa: B027  few tasks need it
        """Write further files when all inputs have their row, and the results are joined."""


@dataclass(frozen=True)
class Resources:
    """What each process may use.

    Attributes:
        workers: Number of processes; 0 to do all in this one.
        threads: Threads of matrix products in each; None for those of the library.
    """

    workers: int
    threads: int | None

    @classmethod
    def of(cls, options: BulkOptions) -> Resources:
        """Divide the processors among the processes; on a cluster, an actor has one.

        Raises:
            UserError: No processes.
        """
        if options.workers is not None and options.workers < 0:
            raise UserError(f"--workers {options.workers}: expected at least 1, or 0 for no process beside this one")
        workers = options.workers
        if workers is None:
            workers = 1 if has_gpu() else max(1, len(os.sched_getaffinity(0)))
        if options.engine == "ray":
            return cls(workers, 1)
        return cls(workers, None if workers <= 1 else max(1, (os.cpu_count() or 1) // workers))


def has_gpu() -> bool:
    """Whether this machine has a GPU that may be used, without importing torch."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")


def failed_row(sample: NamedSource, error: ReadError) -> pa.Table:
    """Return the row of an input without a result; parts are joined by column, so it may lack some."""
    return pa.Table.from_pylist([{"path": sample[0], "status": error.status, "reason": str(error)}])


def model_digest(model: str) -> str:
    """Return the SHA-256 of all that decides a model's answers: an exported file, or the files of a run and members.

    Raises:
        UserError: There is no such model.
    """
    path = Path(model)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    from softfree.inference.run import Run

    run = Run.load(path)
    digest = hashlib.sha256()
    for folder in [
        run.folder,
        *(member.folder for member in run.members),
        *(part.folder for part in run.parts.values()),
    ]:
        for name in ("config.yaml", "model.safetensors", "calibration.json", "distribution.safetensors"):
            if (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
