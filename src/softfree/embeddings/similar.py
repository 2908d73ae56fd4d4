"""``softfree similar RUN IMAGES --index FOLDER``: the nearest cases of images among those of an index."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softfree.archive.remote import is_remote
from softfree.embeddings.feature_folder import FEATURES, FeatureFolder
from softfree.embeddings.index_folder import IndexFolder
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import CaseFile, SampleSource, SourceFile, files_of

SPARE = 5  # further neighbors that are looked for, since the image itself is left out
FIXED = ("rank", "distance", "path", "frame")
"""Columns of every neighbor, the last only where one has a frame."""
OWN = (*FIXED, "query", "query_frame", "status", "reason")
"""Names of an answer's own columns; the inputs' columns of these names are shown as ``inputs.NAME``."""


@dataclass(frozen=True)
class Neighbor:
    """A case of the index.

    Attributes:
        distance: Cosine distance, from 0 (same direction) to 2.
        path: As in the inputs of the index.
        source: Its file.
        frame: Frame of its first file, counted from 0; None where the inputs name none.
        values: Label and further columns.
    """

    distance: float
    path: str
    source: SampleSource
    frame: int | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """The nearest cases of an image, the nearest first; none if it cannot be read.

    Attributes:
        path: Name of the image.
        source: Its file.
        frame: Frame of its first file, counted from 0; None if none was named.
        status: ``ok``, or the kind of error.
        reason: Why it cannot be read.
        neighbors: The cases.
    """

    path: str
    source: SampleSource
    frame: int | None
    status: str
    reason: str
    neighbors: list[Neighbor] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, without files."""
        found = [
            {"rank": rank, "distance": round(one.distance, 6), "path": one.path, **_named(one.frame), **one.values}
            for rank, one in enumerate(self.neighbors, 1)
        ]
        own = {"path": self.path, **_named(self.frame), "status": self.status, "reason": self.reason}
        return own | {"neighbors": found}


def _named(frame: int | None) -> dict[str, int]:
    return {} if frame is None else {"frame": frame}


def find_similar(
    index: IndexFolder,
    queries: pa.Table,
    samples: Sequence[NamedSource],
    count: int,
    columns: Sequence[str] = (),
) -> list[Answer]:
    """Find the nearest cases of images; an image that is itself in the index is left out.

    Args:
        index: The index.
        queries: Rows with features of the images, as in ``results.parquet``.
        samples: The images, in the order of the rows.
        count: Number of nearest cases.
        columns: Further columns of the inputs to show.

    Raises:
        UserError: There is no such column, or no positive number.
    """
    if count < 1:
        raise UserError(f"--count {count}: expected 1 or more")
    shown = _shown(index.features, columns)
    answers = []
    for row, (name, source, frame) in zip(queries.to_pylist(), samples, strict=True):
        assert not isinstance(source, DecodedImage)
        answer = Answer(name, source, first_frame(source, frame), row["status"], row["reason"] or "")
        if row["status"] == "ok":
            vector = np.array(row[FEATURES], np.float32)
            found = index.search(vector[None], count + SPARE)
            answer.neighbors.extend(_others(index, source, frame, found.rows[0], found.distances[0])[:count])
        answers.append(answer)
    return _with_columns(index.features, answers, shown)


def _shown(features: FeatureFolder, columns: Sequence[str]) -> list[str]:
    unknown = [name for name in columns if name not in features.columns or name in (FEATURES, "input")]
    if unknown:
        known = ", ".join(name for name in features.columns if name not in (FEATURES, "input"))
        raise UserError(f"--columns {unknown[0]}: {features.results} has no such column; it has {known}")
    return [name for name in columns if name not in ("path", "label")]


def _others(
    index: IndexFolder, source: SampleSource, frame: int | None, rows: np.ndarray, distances: np.ndarray
) -> list[Neighbor]:
    """Return the neighbors that are not the image itself."""
    records = index.rows(rows)
    sources = index.features.inputs([record["input"] for record in records])
    own = sample_key(source, frame)
    return [
        Neighbor(
            float(distance),
            record["path"],
            file,
            first_frame(file, its_frame),
            {name: record[name] for name in ("input", "label") if name in record},
        )
        for record, (file, its_frame), distance in zip(records, sources, distances, strict=True)
        if sample_key(file, its_frame) != own
    ]


def sample_key(source: SampleSource, frame: int | None) -> tuple[tuple[str, int], ...]:
    """Return what two names of one sample have in common: its files and their frames."""
    return tuple(
        (file.path if is_remote(file.path) else os.path.realpath(file.path), _frame_of(file, frame) or 0)
        for file in files_of(source)
    )


def first_frame(source: SampleSource, frame: int | None) -> int | None:
    """Return the frame of the first file of a sample, of which ``frame`` is that of one that is no case."""
    return _frame_of(files_of(source)[0], frame)


def _frame_of(file: SourceFile, frame: int | None) -> int | None:
    return file.frame if isinstance(file, CaseFile) else frame


def _with_columns(features: FeatureFolder, answers: list[Answer], shown: Sequence[str]) -> list[Answer]:
    """Put further columns into the place of the numbers of inputs."""
    wanted = sorted({one.values["input"] for answer in answers for one in answer.neighbors})
    values: dict[int, dict[str, Any]] = {number: {} for number in wanted}
    if shown and wanted:
        table = pq.read_table(features.results, columns=["input", *shown], filters=[("input", "in", wanted)])
        values = {row.pop("input"): row for row in table.to_pylist()}
    return [
        replace(answer, neighbors=[_shown_of(one, values[one.values["input"]]) for one in answer.neighbors])
        for answer in answers
    ]


def _shown_of(one: Neighbor, values: Mapping[str, Any]) -> Neighbor:
    label = {"label": one.values["label"]} if "label" in one.values else {}
    further = {f"inputs.{name}" if name in OWN else name: cell for name, cell in values.items()}
    return replace(one, values=label | further)
