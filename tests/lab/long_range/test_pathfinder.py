"""Pathfinder images: geometry of dashes and contours, and the classes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from softfree_lab.long_range import pathfinder
from softfree_lab.long_range.pathfinder import REACH, SIDE, Canvas, dash, draw_images


@pytest.fixture(scope="module")
def contours() -> list[tuple[Canvas, list[tuple[int, int]], list[tuple[int, int]]]]:
    rng = np.random.default_rng(0)
    tries = (pathfinder._two_contours(rng) for _ in range(1000))
    return [contours for _, contours in zip(range(4), filter(None, tries), strict=False)]


def test_a_dash_points_where_its_angle_says() -> None:
    """y grows downward: at 0 the dash goes to the right, at 90 degrees down."""
    line = dash(0.0).line
    assert line[REACH, REACH + 1] > 0.3
    assert line[:, :REACH].max() < 0.1 * line.max()
    np.testing.assert_allclose(dash(math.pi / 2).line, line.T, atol=0.06)


def test_the_mask_of_a_dash_covers_it_with_a_margin() -> None:
    for degrees in range(-180, 180, 7):
        drawn = dash(math.radians(degrees))
        assert (drawn.mask[drawn.line > 0.2] > 0.9).all()
        assert (drawn.mask > 0.5).sum() >= (drawn.line > 0.2).sum() + 3
        assert len(drawn.core) >= 1


def test_contours_start_in_the_middle_seven_pixels_apart(contours: list) -> None:
    assert len(contours) == 4
    for _, (first, second), _ in contours:
        assert math.dist(first, second) == pytest.approx(pathfinder.START_DISTANCE, abs=0.8)
        assert all(12 <= coordinate <= 18 for coordinate in first)


def test_each_contour_leads_from_its_start_to_its_end(contours: list) -> None:
    """Dashes of both alternate after the two first; the first begins at its start, the others lie at their far end."""
    for canvas, starts, ends in contours:
        at = [position for position, _, _ in canvas._dashes]
        assert len(at) == 2 * pathfinder.DASHES
        for which in (0, 1):
            first, *others = at[which::2]
            assert (first, others[-1]) == (starts[which], ends[which])
            gaps = [math.dist(one, other) for one, other in pairwise(others)]
            assert 2.5 < min(gaps) <= max(gaps) < 5.5
        image = canvas.image()
        assert all(image[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].max() > 0.3 for y, x in at)
        assert image.max() <= pathfinder.CONTOUR_CONTRAST


def test_the_class_says_whether_both_dots_are_of_one_contour(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, ends = [(8, 8), (8, 24)], [(24, 8), (24, 24)]
    monkeypatch.setattr(pathfinder, "_two_contours", lambda rng: (Canvas(), starts, ends))
    monkeypatch.setattr(pathfinder, "_with_distractor", lambda canvas, rng: canvas)
    seen = set()
    for seed in range(24):
        image, label = pathfinder.draw_image(np.random.default_rng(seed))
        first = [image[at] > 200 for at in starts].index(True)
        last = [image[at] > 200 for at in ends].index(True)
        assert (image > 200).sum() < 20  # two dots, no more
        assert label == (first == last)
        seen.add((first, last))
    assert len(seen) == 4


def test_images_span_all_grays_and_depend_on_seed_and_part() -> None:
    drawn = draw_images(seed=1, part=2, number=3)
    assert drawn.lengths.tolist() == [SIDE * SIDE] * 3
    assert (drawn.symbols.reshape(3, -1).min(1) == 0).all()
    assert (drawn.symbols.reshape(3, -1).max(1) == 255).all()
    assert draw_images(1, 2, 2).symbols.tolist() == drawn.symbols[: 2 * SIDE * SIDE].tolist()
    assert draw_images(1, 3, 1).symbols.tolist() != drawn.symbols[: SIDE * SIDE].tolist()
