"""``softfree similar RUN IMAGES --index FOLDER``: the nearest cases of images among those of an index."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softfree.archive.remote import is_remote
from softfree.embeddings.feature_folder import FEATURES, FeatureFolder
from softfree.embeddings.index_folder import IndexFolder
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SampleSource, files_of

SPARE = 5  # further neighbors that are looked for, since the image itself is left out


@dataclass(frozen=True)
class Neighbor:
    """A case of the index.

    Attributes:
        distance: Cosine distance, from 0 (same direction) to 2.
        path: As in the inputs of the index.
        source: Its file.
        values: Label and further columns.
    """

    distance: float
    path: str
    source: SampleSource
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """The nearest cases of an image, the nearest first; none if it cannot be read.

    Attributes:
        path: Name of the image.
        source: Its file.
        status: ``ok``, or the kind of error.
        reason: Why it cannot be read.
        neighbors: The cases.
    """

    path: str
    source: SampleSource
    status: str
    reason: str
    neighbors: list[Neighbor] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, without files."""
        found = [
            {"rank": rank, "distance": round(one.distance, 6), "path": one.path, **one.values}
            for rank, one in enumerate(self.neighbors, 1)
        ]
        return {"path": self.path, "status": self.status, "reason": self.reason, "neighbors": found}


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
        answer = Answer(name, source, row["status"], row["reason"] or "")  # type: ignore[arg-type]
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
    index: IndexFolder, source: Any, frame: int | None, rows: np.ndarray, distances: np.ndarray
) -> list[Neighbor]:
    """Return the neighbors that are not the image itself."""
    records = index.rows(rows)
    sources = index.features.inputs([record["input"] for record in records])
    own = sample_key(source, frame)
    return [
        Neighbor(
            float(distance), record["path"], file, {name: record[name] for name in ("input", "label") if name in record}
        )
        for record, (file, its_frame), distance in zip(records, sources, distances, strict=True)
        if sample_key(file, its_frame) != own
    ]


def sample_key(source: Any, frame: int | None) -> tuple[Any, ...]:
    """Return what two names of one sample have in common."""
    files = [file.path if is_remote(file.path) else os.path.realpath(file.path) for file in files_of(source)]
    return (*files, frame or 0)


def _with_columns(features: FeatureFolder, answers: list[Answer], shown: Sequence[str]) -> list[Answer]:
    """Put further columns into the place of the numbers of inputs."""
    wanted = sorted({one.values["input"] for answer in answers for one in answer.neighbors})
    values: dict[int, dict[str, Any]] = {number: {} for number in wanted}
    if shown and wanted:
        table = pq.read_table(features.results, columns=["input", *shown], filters=[("input", "in", wanted)])
        values = {row.pop("input"): row for row in table.to_pylist()}
    return [
        Answer(
            answer.path,
            answer.source,
            answer.status,
            answer.reason,
            [_shown_of(one, values) for one in answer.neighbors],
        )
        for answer in answers
    ]


def _shown_of(one: Neighbor, values: Mapping[int, Mapping[str, Any]]) -> Neighbor:
    label = {"label": one.values["label"]} if "label" in one.values else {}
    return Neighbor(one.distance, one.path, one.source, label | dict(values[one.values["input"]]))
