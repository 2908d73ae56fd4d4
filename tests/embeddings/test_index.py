"""Nearest vectors: exact ones as scikit-learn finds them, approximate ones nearly all of these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from softfree.embeddings import index as module
from softfree.embeddings.index import ExactIndex, GraphIndex, write_graph, write_vectors
from softfree_runtime.core.errors import UserError


def vectors(count: int, width: int = 24) -> np.ndarray:
    """Draw vectors around 40 centers."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(40, width))
    return (centers[random.integers(0, 40, count)] + 0.7 * random.normal(size=(count, width))).astype(np.float32)


def pieces(whole: np.ndarray) -> list[np.ndarray]:
    return [whole[first : first + 300] for first in range(0, len(whole), 300)]


def test_an_exact_index_finds_what_scikit_learn_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 128)  # several blocks
    known = vectors(1000)
    assert write_vectors(tmp_path / "vectors.npy", pieces(known), 24, 1000) == 1000
    found = ExactIndex(tmp_path / "vectors.npy").search(known[:20] * 3, 7)  # lengths do not matter
    distances, rows = NearestNeighbors(metric="cosine", algorithm="brute").fit(known).kneighbors(known[:20], 7)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, atol=1e-5)


def test_a_graph_finds_nearly_the_same(tmp_path: Path) -> None:
    known = vectors(4000)
    assert write_graph(tmp_path / "graph.usearch", pieces(known), 24, threads=1) == 4000
    write_vectors(tmp_path / "vectors.npy", pieces(known), 24, 4000)
    graph, exact = GraphIndex(tmp_path / "graph.usearch"), ExactIndex(tmp_path / "vectors.npy")
    assert len(graph) == 4000
    queries = vectors(4100)[4000:]
    found, true = graph.search(queries, 10), exact.search(queries, 10)
    recall = np.mean([len(set(own) & set(all_)) / 10 for own, all_ in zip(found.rows, true.rows, strict=True)])
    assert recall >= 0.95
    np.testing.assert_allclose(found.distances[:, 0], true.distances[:, 0], atol=2e-3)  # float16


def test_more_neighbors_than_vectors_and_vectors_of_zeros(tmp_path: Path) -> None:
    known = np.vstack([np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    write_vectors(tmp_path / "vectors.npy", [known], 3, 4)
    found = ExactIndex(tmp_path / "vectors.npy").search(np.array([[0, 2, 0]], np.float32), 9)
    assert found.rows.shape == (1, 4)
    assert found.rows[0, 0] == 1
    np.testing.assert_allclose(found.distances[0], [0, 1, 1, 1], atol=1e-7)


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.usearch").write_bytes(b"no graph at all" * 10)
    with pytest.raises(UserError, match="build the index again with --build"):
        GraphIndex(tmp_path / "graph.usearch")
