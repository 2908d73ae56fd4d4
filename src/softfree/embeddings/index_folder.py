"""The index of a folder of features, in its subfolder ``index``, built once.

``index.json``
    The model, what was indexed, and how; an index of other features is built anew.
``vectors.npy`` or ``graph.usearch``
    An exact or an approximate index; see :mod:`softfree.embeddings.index`.
``rows.arrow``
    Number of the input, path and, if the inputs had them, label and split of each vector; no patients.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softfree.core.locks import locked
from softfree.core.progress import console, tracked
from softfree.embeddings.feature_folder import BATCH, FeatureFolder
from softfree.embeddings.index import ExactIndex, GraphIndex, Neighbors, VectorIndex, write_graph, write_vectors
from softfree.embeddings.options import Search
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing, write_atomically

LARGE = 100_000
"""Number of vectors from which an index is approximate by default."""
COLUMNS = ("input", "path", "label", "split")
FILES = {"exact": "vectors.npy", "approximate": "graph.usearch"}
_FORMAT = 1


class IndexFolder:
    """An opened index.

    Attributes:
        features: The features that it was made of.
        kind: ``exact`` or ``approximate``.
    """

    def __init__(self, features: FeatureFolder, kind: str, vectors: VectorIndex, rows: pa.Table) -> None:
        self.features, self.kind = features, kind
        self._vectors, self._rows = vectors, rows

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: np.ndarray, count: int) -> Neighbors:
        """Find the nearest vectors of each query (n, D).

        Raises:
            UserError: Queries of another length.
        """
        if queries.shape[1] != self.features.width:
            raise UserError(
                f"got features of length {queries.shape[1]}, and the index has {self.features.width}: it is of another"
                " model"
            )
        return self._vectors.search(queries, count)

    def rows(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Return path and other columns of vectors by their numbers."""
        found: list[dict[str, Any]] = self._rows.take(pa.array(numbers)).to_pylist()
        return found


def open_index(
    features: FeatureFolder, search: Search = "auto", *, build: bool = False, shown: bool = True
) -> IndexFolder:
    """Open the index of a folder of features; build it if there is none, or one of other features or another kind.

    Args:
        features: The folder.
        search: ``exact``, ``approximate``, or ``auto`` for exact below :data:`LARGE` vectors.
        build: Build it in any case.
        shown: Say on standard error that it is built, and show a bar.

    Raises:
        UserError: No image has features, or the folder cannot be written.
    """
    root = features.root / "index"
    digest = features.digest()
    found = _read(root / "index.json")
    if build or not _fits(root, found, digest, search):
        try:
            root.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the index cannot be written to {root} ({error.strerror}); build it once with --build where it can"
            ) from None
        with locked(root, "building the index", wait=True):  # a second process waits, and then finds it
            found = _read(root / "index.json")
            if build or not _fits(root, found, digest, search):
                found = _build(features, root, digest, search, shown)
    assert found is not None
    with pa.memory_map(str(root / "rows.arrow")) as file:
        rows = pa.ipc.open_file(file).read_all()
    vectors: VectorIndex = (
        ExactIndex(root / "vectors.npy") if found["kind"] == "exact" else GraphIndex(root / "graph.usearch")
    )
    if not len(vectors) == len(rows) == found["count"]:
        raise UserError(f"{root} is damaged: {len(vectors)} vectors and {len(rows)} rows; build it again with --build")
    return IndexFolder(features, found["kind"], vectors, rows)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == _FORMAT else None


def _fits(root: Path, found: dict[str, Any] | None, digest: str, search: Search) -> bool:
    if found is None or found.get("results") != digest or search not in ("auto", found.get("kind")):
        return False
    return _sizes(root, found["kind"]) == found.get("bytes")  # a file that was cut off must not be mapped


def _sizes(root: Path, kind: str) -> dict[str, int]:
    """Return the sizes of the files of an index."""
    files = (root / FILES[kind], root / "rows.arrow")
    return {file.name: file.stat().st_size for file in files if file.is_file()}


def _build(features: FeatureFolder, root: Path, digest: str, search: Search, shown: bool) -> dict[str, Any]:
    start = time.perf_counter()
    status = pq.read_table(features.results, columns=["status"])["status"]
    count = int(pc.sum(pc.equal(status, "ok")).as_py() or 0)
    if not count:
        raise UserError(f"{features.results}: no image has features; their reasons are in its column reason")
    kind = search if search != "auto" else "exact" if count < LARGE else "approximate"
    if shown:
        console.print(f"Building the index of {count:,} images in {root}", highlight=False, soft_wrap=True)
    root.joinpath("index.json").unlink(missing_ok=True)  # what is half written is not taken for an index
    with replacing(root / "rows.arrow") as temporary:
        pieces = _vectors(features, temporary, count, shown)
        if kind == "exact":
            write_vectors(root / FILES[kind], pieces, features.width, count)
        else:
            write_graph(root / FILES[kind], pieces, features.width)
    for other in FILES.keys() - {kind}:
        (root / FILES[other]).unlink(missing_ok=True)
    content = {
        "format": _FORMAT,
        "kind": kind,
        "count": count,
        "width": features.width,
        "model_digest": features.model,
        "results": digest,
        "bytes": _sizes(root, kind),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_atomically(root / "index.json", json.dumps(content, indent=2))
    return content


def _vectors(features: FeatureFolder, path: Path, count: int, shown: bool) -> Iterator[np.ndarray]:
    """Yield the features in pieces, and write the rows that they belong to."""
    columns = [name for name in COLUMNS if name in features.columns]
    writer = None
    batches = features.batches(columns)
    total = -(-pq.read_metadata(features.results).num_rows // BATCH)
    for vectors, rows in tracked(batches, "Indexing", total=total, shown=shown):
        own = rows.select(columns)
        writer = writer or pa.ipc.new_file(path, own.schema)
        writer.write_table(own)
        yield vectors
    if writer is not None:
        writer.close()
