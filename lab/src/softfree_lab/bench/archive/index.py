"""Nearest neighbors among a million features: time, memory on disk, and how many of the true ones are found.

The features are made of real ones: those of the model for crops of the images, each moved by a part of the difference
of two others. So they have the covariance of real ones, and neighbors that are neither equal nor far. Uniform random
vectors would have no near neighbors at all, and copies with a little noise would be found by anything. The queries are
features of crops that the others were not made of. Where the model gives fewer numbers than are wanted, those of the
enlarged center of each crop are added.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from softfree.embeddings.index import ExactIndex, GraphIndex, VectorIndex, write_graph, write_vectors
from softfree_lab.bench.archive.setting import Bench, Measured, crops

REAL = 2200  # crops, of which the last are queries
QUERIES = 200
COUNT = 10
_PIECE = 50_000
_MOVED = 0.5  # of the difference of two features


def index(bench: Bench) -> Iterator[Measured]:
    """Build an index, and compare its answers with those of all vectors."""
    real = _features(bench, min(REAL, bench.options.vectors + QUERIES))
    made_of, queries = real[:-QUERIES], real[-QUERIES:]
    count, width = bench.options.vectors, real.shape[1]
    vectors, graph = bench.scratch / "vectors.npy", bench.scratch / "graph.usearch"
    write_vectors(vectors, _mixed(made_of, count), width, count)
    start = time.perf_counter()
    write_graph(graph, _mixed(made_of, count), width)
    built = time.perf_counter() - start
    truth, exact_seconds = _asked(ExactIndex(vectors), queries)
    start = time.perf_counter()
    opened = GraphIndex(graph)
    opening = time.perf_counter() - start
    found, _ = _asked(opened, queries[:1])
    found, seconds = _asked(opened, queries)
    recall = np.mean([len(set(own) & set(true)) / COUNT for own, true in zip(found, truth, strict=True)])
    yield Measured(
        f"{count:,} features of {width} numbers, made of {len(made_of):,} real ones: graph built", built, "s"
    )
    yield Measured("opening it", 1000 * opening, "ms")
    yield Measured(f"nearest {COUNT} of one query, median of {QUERIES}", 1000 * float(np.median(seconds)), "ms")
    yield Measured("the slowest of 100 queries", 1000 * float(np.quantile(seconds, 0.99)), "ms")
    yield Measured(f"recall of the nearest {COUNT} against comparing with all", float(recall), "")
    yield Measured("comparing with all, median", 1000 * float(np.median(exact_seconds)), "ms")
    yield Measured("graph with vectors on disk, a feature", graph.stat().st_size / count, "bytes")


def _asked(searched: VectorIndex, queries: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the rows found for each query, asked one by one, and the seconds that each took."""
    rows, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        rows.append(searched.search(query[None], COUNT).rows[0])
        seconds.append(time.perf_counter() - start)
    return rows, np.array(seconds)


def _mixed(real: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield features made of real ones, the same at each call."""
    random = np.random.default_rng(0)
    for first in range(0, count, _PIECE):
        one, two, three = random.integers(0, len(real), (3, min(_PIECE, count - first)))
        yield real[one] + _MOVED * random.random((len(one), 1), np.float32) * (real[two] - real[three])


def _features(bench: Bench, count: int) -> np.ndarray:
    """Return the features (n, D) of crops; where the model has fewer, also those of their enlarged centers."""
    import torch

    from softfree.features.encoders import RunEncoder

    encoder = RunEncoder(Path(bench.run))
    features = []
    with torch.inference_mode():
        for crop in crops(bench.data, count):
            own: list[np.ndarray] = []
            while sum(map(len, own)) < bench.options.width:
                tile = encoder.prepare(np.asarray(crop.convert("RGB")))
                own.append(encoder.module(tile[None])[0].numpy())
                quarter = crop.width // 4
                crop = crop.crop((quarter, quarter, 3 * quarter, 3 * quarter)).resize(crop.size)
            features.append(np.concatenate(own)[: bench.options.width])
    joined = np.stack(features)
    return joined[np.random.default_rng(1).permutation(len(joined))]
