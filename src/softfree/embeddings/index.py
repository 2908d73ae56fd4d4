"""Nearest vectors by cosine distance: exactly by comparing with all, or approximately by a graph (HNSW).

Both are files that are memory-mapped: opening takes the same time for any number of vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing

NEIGHBORS = 16  # edges of a vector in the graph
EXPANSION_OF_BUILD = 64  # candidates that are looked at to place a vector
EXPANSION = 128  # candidates that are looked at to answer
_ROWS = 65_536  # vectors that are compared at a time
_LEAST = np.finfo(np.float32).tiny


class Neighbors(NamedTuple):
    """Rows (n, k) of the nearest vectors and their cosine distances (n, k), the nearest first."""

    rows: np.ndarray
    distances: np.ndarray


class VectorIndex(Protocol):
    """Finds nearest vectors."""

    def __len__(self) -> int:
        """Return the number of vectors."""
        ...

    def search(self, queries: np.ndarray, count: int) -> Neighbors:
        """Return the nearest vectors of each query (n, D), at most as many as there are."""
        ...


class ExactIndex:
    """Compares with all vectors of a file.

    Args:
        path: Unit vectors (n, D), float32, as ``.npy``.
    """

    def __init__(self, path: Path) -> None:
        self._vectors = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: np.ndarray, count: int) -> Neighbors:
        """See :meth:`VectorIndex.search`."""
        queries, count = unit(queries), min(count, len(self))
        rows: np.ndarray = np.empty((len(queries), 0), np.int64)
        similarities: np.ndarray = np.empty((len(queries), 0), np.float32)
        for first in range(0, len(self), _ROWS):
            own = queries @ np.asarray(self._vectors[first : first + _ROWS]).T
            similarities = np.concatenate([similarities, own], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(np.arange(first, first + own.shape[1]), own.shape)], axis=1)
            if rows.shape[1] > count:
                best = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
                rows, similarities = (np.take_along_axis(array, best, 1) for array in (rows, similarities))
        order = np.argsort(-similarities, axis=1, kind="stable")
        rows, similarities = (np.take_along_axis(array, order, 1) for array in (rows, similarities))
        return Neighbors(rows, np.clip(1 - similarities, 0, 2))


class GraphIndex:
    """Walks along a graph of neighbors (HNSW of usearch) in a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        damaged = UserError(f"{path} is damaged; build the index again with --build")
        try:
            self._graph = _usearch().Index.restore(str(path), view=True)
        except (ValueError, RuntimeError):
            raise damaged from None
        if self._graph is None:
            raise damaged
        self._graph.expansion_search = EXPANSION

    def __len__(self) -> int:
        return len(self._graph)

    def search(self, queries: np.ndarray, count: int) -> Neighbors:
        """See :meth:`VectorIndex.search`."""
        count = min(count, len(self))
        found = [self._graph.search(query, count) for query in unit(queries)]
        rows, distances = (np.stack([getattr(one, name) for one in found]) for name in ("keys", "distances"))
        return Neighbors(rows.astype(np.int64), np.clip(distances, 0, 2))


def write_graph(path: Path, vectors: Iterable[np.ndarray], width: int, threads: int = 0) -> int:
    """Write a graph of vectors (n, D) that come in pieces; return their number.

    Args:
        path: File to write.
        vectors: The pieces.
        width: D.
        threads: Number of threads; 0 for one for each processor.
    """
    graph = _usearch().Index(
        ndim=width, metric="cos", dtype="f16", connectivity=NEIGHBORS, expansion_add=EXPANSION_OF_BUILD
    )
    count = 0
    for piece in vectors:
        graph.add(np.arange(count, count + len(piece)), unit(piece), threads=threads)
        count += len(piece)
    with replacing(path) as temporary:
        graph.save(str(temporary))
    return count


def write_vectors(path: Path, vectors: Iterable[np.ndarray], width: int, count: int) -> int:
    """Write unit vectors of ``count`` vectors (n, D) that come in pieces; return their number."""
    first = 0
    with replacing(path) as temporary:
        stored = np.lib.format.open_memmap(temporary, "w+", np.float32, (count, width))
        for piece in vectors:
            stored[first : first + len(piece)] = unit(piece)
            first += len(piece)
        stored.flush()
    return first


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, D) of length 1 as float32; zeros stay zeros, at distance 1 from all."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST)


def _usearch() -> Any:
    import usearch.index

    return usearch.index
