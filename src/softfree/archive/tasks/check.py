"""Facts about the files of an archive, for an audit of its table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList, source_to_text
from softfree.archive.task import Task, Words
from softfree.data.audit.near_duplicates import MAX_IMAGES
from softfree.data.audit.probe import Probe, probe
from softfree_runtime.core.files import printable
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import name_of

_PLAIN = [field.name for field in fields(Probe) if field.name not in ("status", "reason", "thumbnail")]
_THUMBNAIL, _SHAPE, _KIND = "thumbnail", "thumbnail_shape", "thumbnail_kind"


@dataclass(frozen=True)
class Check(Task):
    """Reads each file once and keeps facts about it.

    Attributes:
        sources: Source and frame of each row of the table.
    """

    name: ClassVar[str] = "check"
    words: ClassVar[Words] = Words("read", "read", "Files of an archive")

    sources: tuple[tuple[Any, int | None], ...]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the sources at home: processes get theirs from the list of inputs."""
        return {"sources": ()}

    def open(self, root: Path) -> Prober:
        """Open the reader."""
        return Prober()

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return the kind, which differs from file to file."""
        return "image", ()

    def samples(self) -> list[NamedSource]:
        """Return the rows of the table."""
        return [(printable(name_of(source)), source, frame) for source, frame in self.sources]

    def identity(self) -> dict[str, Any]:
        """Return the files: facts belong to rows of the table."""
        digest = hashlib.sha256()
        for source, frame in self.sources:
            digest.update(f"{source_to_text(source)} {frame}\n".encode())
        return {"files_digest": digest.hexdigest()}


class Prober:
    """Reads inputs; there is no model."""

    model_seconds = 0.0

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        """Return one row for each input."""
        rows = [_to_row(name, probe(source, frame)) for name, source, frame in samples]  # type: ignore[arg-type]
        return pa.Table.from_pylist(rows)


def _to_row(name: str, facts: Probe) -> dict[str, Any]:
    row: dict[str, Any] = {"path": name, "status": facts.status, "reason": printable(facts.reason)}
    row |= {field: getattr(facts, field) for field in _PLAIN}
    if facts.thumbnail is not None:
        small = np.ascontiguousarray(facts.thumbnail)
        row |= {_THUMBNAIL: small.tobytes(), _SHAPE: list(small.shape), _KIND: small.dtype.str}
    return row


def probes_in(folder: ArchiveFolder) -> list[Probe]:
    """Read the facts of all inputs, in their order; without thumbnails if they are too many to be compared."""
    few = len(InputList(folder.inputs)) <= MAX_IMAGES
    probes = []
    for table in folder.rows():
        if not few and _THUMBNAIL in table.column_names:
            table = table.drop_columns(_THUMBNAIL)
        probes += [_from_row(row) for row in table.to_pylist()]
    return probes


def _from_row(row: dict[str, Any]) -> Probe:
    if row["status"] in ("crashed", "changed"):  # nothing but the reason is there
        return Probe(row["status"], row["reason"])
    values = {field: row[field] for field in _PLAIN if row.get(field) is not None}
    for field in ("spacing", "corrections"):
        if field in values:
            values[field] = tuple(values[field])
    small = row.get(_THUMBNAIL)
    thumbnail = None if small is None else np.frombuffer(small, row[_KIND]).reshape(row[_SHAPE])
    return Probe(row["status"], row["reason"], **values, thumbnail=thumbnail)
