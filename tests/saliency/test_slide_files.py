"""Outlines of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from softfree.saliency.slide_files import outline


def area(ring: list[tuple[int, int]]) -> float:
    """Signed, by the shoelace formula."""
    rows, columns = np.array(ring).T
    return float((columns[:-1] * rows[1:] - columns[1:] * rows[:-1]).sum() / 2)


def test_a_rectangle_has_four_corners() -> None:
    tokens = np.zeros((4, 5), bool)
    tokens[1:3, 1:4] = True
    assert outline(tokens) == [[(1, 1), (1, 4), (3, 4), (3, 1), (1, 1)]]


def test_holes_turn_the_other_way() -> None:
    tokens = np.ones((5, 5), bool)
    tokens[1, 1] = tokens[2, 2] = tokens[3, 3] = False  # holes that touch by corners stay apart, or join
    rings = outline(tokens)
    assert area(rings[0]) == 25
    assert all(area(ring) < 0 for ring in rings[1:])
    assert sum(map(area, rings)) == 22


def test_tokens_that_touch_by_a_corner_are_one_ring_each_way_round() -> None:
    tokens = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    rings = outline(tokens)
    assert sum(map(area, rings)) == 7
    assert all(np.abs(np.diff(ring, axis=0)).min(1).max() == 0 for ring in rings), "sides run along the grid"


@pytest.mark.parametrize("seed", range(10))
def test_rings_have_the_area_of_the_tokens(seed: int) -> None:
    tokens = np.random.default_rng(seed).random((12, 9)) < 0.6
    rings = outline(tokens)
    assert sum(map(area, rings)) == tokens.sum()
    assert all(ring[0] == ring[-1] for ring in rings)
