"""What the parts of the server give each other: samples, answers, jobs and tasks; plain data without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["queued", "running", "done", "failed", "canceled"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One sample as a client gave it.

    Attributes:
        paths: Its files: one, or those of a case or series.
        frame: Frame of a multi-frame file, counted from 0; None for the first.
        views: View of each file of a case; None if unknown.
        times: Time of each file of a case, in the unit of the model's table; None if unknown.
        variables: Clinical variables by column.
        digest: SHA-256 of the bytes of the files, one after the other.
        name: The client's own name of it, for the answer; it may name a patient, and is neither logged nor stored.
        case: Whether several files, or one, are images of one case, instead of slices of one volume.
    """

    paths: tuple[Path, ...]
    frame: int | None = None
    views: tuple[str, ...] | None = None
    times: tuple[float | None, ...] | None = None
    variables: Mapping[str, object] | None = None
    digest: str = ""
    name: str = ""
    case: bool = False


@dataclass(frozen=True)
class ModelVersion:
    """Which model answered.

    Attributes:
        name: Its name on this server.
        version: Version of softfree that trained or exported it.
        hash: SHA-256 of its file, or of the weights and settings of its run.
    """

    name: str
    version: str
    hash: str


@dataclass(frozen=True)
class Answer:
    """The answer for one sample.

    Attributes:
        row: The row of ``softfree predict``; its ``path`` is the client's own name of the sample, or its number.
        steps: What was done to the pixels, in words.
        model: Which model answered.
        seconds: Time from the request to the answer.
        files: Names of the files of the maps, in the folder of :meth:`Spool.maps_of`; empty without an explanation.
        note: Why there are no maps although they were asked for; empty otherwise.
    """

    row: Row
    steps: list[str]
    model: ModelVersion
    seconds: float
    files: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class JobState:
    """How far a job is.

    Attributes:
        id: Its name, which cannot be guessed.
        model: Which model made the first answer; until then the one that the job was given to.
        state: ``queued``, ``running``, ``done``, ``failed`` (no sample could be answered) or ``canceled``.
        done: Number of samples that are answered.
        total: Number of samples.
        answers: For each sample its answer, or None while it waits.
        explain: Whether maps are made.
        error: Why the job failed; empty otherwise.
        who: The client that gave it.
    """

    id: str
    model: ModelVersion
    state: State
    done: int
    total: int
    answers: tuple[Answer | None, ...] = ()
    explain: bool = False
    error: str = ""
    who: str = ""


@dataclass(frozen=True)
class RenderTask:
    """Something for the page that reads a file, and therefore happens in a worker.

    Attributes:
        function: ``module:name`` of a function within ``softfree.serving``, which is called with the paths and the
            arguments and returns a :class:`RenderResult`.
        paths: Files that it reads.
        arguments: Its keyword arguments.
    """

    function: str
    paths: tuple[Path, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderResult:
    """What a :class:`RenderTask` gives.

    Attributes:
        body: The content of the response.
        media_type: Its type, such as ``image/png``.
        headers: Further headers of the response.
    """

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedModel:
    """What the HTTP process knows of a model.

    Attributes:
        version: Its name, version and hash.
        path: Its file or folder.
        format: ``onnx`` or ``run``.
        kind: Kind of its samples: ``image``, ``volume``, ``slide``, ``bag`` or ``case``.
        task: Kind of its task.
        classes: Names of its classes.
        thresholds: Probability from which on a class counts as present.
        explains: Whether it can make maps.
        maps_from: Run that makes its maps: its own folder, or that of ``--maps``; None without maps.
        card: The model card, Markdown.
        metrics: Metrics on its test split: name to value, low, high, n.
        steps: What is done to the pixels, in words.
        columns: Columns of its rows.
        about: Further facts for the page: views, clinical variables, horizons, size, unit.
    """

    version: ModelVersion
    path: Path
    format: Literal["onnx", "run"]
    kind: str
    task: str
    classes: tuple[str, ...]
    thresholds: dict[str, float]
    explains: bool
    maps_from: Path | None = None
    card: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name on this server."""
        return self.version.name
