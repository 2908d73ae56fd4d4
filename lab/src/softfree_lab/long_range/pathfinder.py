"""Pathfinder of the Long Range Arena at 32 x 32 pixels: do two dots lie on the same dashed contour?

Own code for the published construction (Linsley et al. 2018, arXiv:1805.08315; github.com/drewlinsley/pathfinder) with
the arena's values for its hardest set, "contour length 14". A contour is a chain of dashes. Each next dash starts near
the end of the last one, in a direction whose probability falls with the squared cosine of the turn, and may not come
close to anything drawn before. Two contours of 14 dashes start 7 pixels apart near the middle; five distractors of 4
dashes are added where there is room. One dot marks a start and the other an end, of the same contour (class 1) or of
the other one (class 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from softfree_lab.long_range.sequences import Sequences

CLASSES = ("two contours", "one contour")
SIDE = 32  # pixels
PADDING = 1  # pixels at the border that no contour crosses
LENGTH, THICKNESS, MARGIN = 2, 0.5, 1  # of a dash, and the free pixels around it
DASHES, DISTRACTORS, DISTRACTOR_DASHES = 14, 5, 4
START_DISTANCE = 7  # pixels between the starts of the two contours
CONTINUITY = 1.0  # factor of the turn before its cosine is taken
CONTOUR_CONTRAST, DISTRACTOR_CONTRAST = 0.75 * 2, 2.0
DOT_RADIUS = 1.5
SCALE = 2  # dashes and dots are drawn this much larger, then reduced by Lanczos' filter
TRIES_PER_DASH, TRIES_PER_DISTRACTOR = 3, 5
OVERLAP = 1.8  # sum of two masks from which dashes overlap
FREE = 0.3  # a pixel with less of a mask is free
MIN_FREE = 0.01  # share of free pixels below which no distractor is tried

REACH = LENGTH + math.ceil(THICKNESS) + MARGIN  # half the side of a drawn dash
STEP = LENGTH + MARGIN  # from the point where a dash is attached to its far end


class Dash(NamedTuple):
    """A dash from the middle of a square patch.

    Attributes:
        line: Brightness from 0 to 1, (2 REACH + 1, 2 REACH + 1).
        mask: The same with a margin around it.
        core: Offsets (k, 2) of the pixels that its mask covers completely, from its start, but one pixel further down
            and to the right, as the published code looks for room: contours start that much closer to the top left.
    """

    line: np.ndarray
    mask: np.ndarray
    core: np.ndarray


class Pen(NamedTuple):
    """The end of a contour: its last dash's point of attachment and direction, and the far end.

    Attributes:
        pivot: One margin before the last dash, (y, x).
        angle: Its direction, radians from the x axis toward y.
        tip: Its far end; for the first dash its start.
        patch: What its mask adds to the canvas once the next dash is there: its position and mask.
    """

    pivot: tuple[int, int]
    angle: float
    tip: tuple[int, int]
    patch: tuple[tuple[int, int], np.ndarray]


class Canvas:
    """The dashes so far, and where none may be drawn any more."""

    def __init__(self) -> None:
        self._dashes: list[tuple[tuple[int, int], np.ndarray, float]] = []
        self.mask = np.ones((SIDE, SIDE))
        self.mask[PADDING:-PADDING, PADDING:-PADDING] = 0

    def copy(self) -> Canvas:
        """Return a copy, to come back to if a contour ends in a dead end."""
        other = Canvas.__new__(Canvas)
        other._dashes, other.mask = list(self._dashes), self.mask.copy()
        return other

    def draw(self, at: tuple[int, int], line: np.ndarray, contrast: float) -> None:
        """Draw a dash from ``at``, once the image is asked for: most contours end in a dead end before."""
        self._dashes.append((at, line, contrast))

    def image(self) -> np.ndarray:
        """Return the image, (SIDE, SIDE)."""
        image = np.zeros((SIDE, SIDE))
        for at, line, contrast in self._dashes:
            inside, part = _overlap(at)
            np.maximum(image[inside], contrast * line[part], out=image[inside])
        return image

    def block(self, at: tuple[int, int], mask: np.ndarray) -> None:
        """Add the mask of a dash from ``at``."""
        inside, part = _overlap(at)
        np.maximum(self.mask[inside], mask[part], out=self.mask[inside])

    def meets(self, at: tuple[int, int], mask: np.ndarray) -> bool:
        """Whether the mask of a dash from ``at`` overlaps what is there."""
        inside, part = _overlap(at)
        return bool((self.mask[inside] + mask[part]).max() >= OVERLAP)


def draw_images(seed: int, part: int, number: int) -> Sequences:
    """Draw images as sequences of their grays, row by row.

    Args:
        seed: Seed of the data set.
        part: Part of the data set; each is drawn by itself.
        number: Number of images.

    Returns:
        Grays of 1,024 pixels each, with indices of :data:`CLASSES`.
    """
    rng = np.random.default_rng((seed, part))
    drawn = [draw_image(rng) for _ in range(number)]
    pixels = np.stack([image for image, _ in drawn]).reshape(-1)
    starts = np.arange(number + 1, dtype=np.int64) * SIDE * SIDE
    return Sequences(pixels, starts, np.array([label for _, label in drawn], np.int64))


def draw_image(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draw one image, (SIDE, SIDE) uint8 that spans 0 to 255, with its class."""
    contours = None
    while contours is None:
        contours = _two_contours(rng)
    canvas, starts, ends = contours
    for _ in range(DISTRACTORS):
        canvas = _with_distractor(canvas, rng)
    label, first = (int(number) for number in rng.integers(2, size=2))
    second = first if label else 1 - first
    image = np.maximum(canvas.image(), np.maximum(_dot(starts[first]), _dot(ends[second])))
    return ((image - image.min()) * (255 / np.ptp(image)) + 0.5).astype(np.uint8), label


def _two_contours(rng: np.random.Generator) -> tuple[Canvas, list[tuple[int, int]], list[tuple[int, int]]] | None:
    """Draw the two contours; None in a dead end. Return the canvas, both starts and both ends."""
    canvas = Canvas()
    first = _first_start(canvas, rng)
    second = None if first is None else _second_start(first.tip, rng)
    if first is None or second is None:
        return None
    pens = [first, second]
    starts = [pen.tip for pen in pens]
    for pen in pens:
        canvas.draw(pen.tip, dash(pen.angle).line, CONTOUR_CONTRAST)
    for _ in range(DASHES - 1):
        for which, pen in enumerate(pens):
            longer = _extend(canvas, pen, CONTOUR_CONTRAST, rng)
            if longer is None:
                return None
            pens[which] = longer
    canvas.block(*pens[1].patch)  # only the second's last dash, as in the published code
    return canvas, starts, [pen.tip for pen in pens]


def _with_distractor(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    """Return the canvas with one more distractor, or as it is if there is no room after some tries."""
    for _ in range(TRIES_PER_DISTRACTOR):
        if (canvas.mask <= FREE).mean() < MIN_FREE:
            return canvas
        trial, pen = canvas.copy(), _start_within(canvas.mask, 1, rng)
        if pen is None:
            continue
        trial.draw(pen.tip, dash(pen.angle).line, DISTRACTOR_CONTRAST)
        for _ in range(DISTRACTOR_DASHES - 1):
            pen = _extend(trial, pen, DISTRACTOR_CONTRAST, rng)
            if pen is None:
                break
        else:
            assert pen is not None
            trial.block(*pen.patch)
            return trial
    return canvas


def _first_start(canvas: Canvas, rng: np.random.Generator) -> Pen | None:
    return _start_within(canvas.mask, 2 * START_DISTANCE, rng)


def _second_start(first: tuple[int, int], rng: np.random.Generator) -> Pen | None:
    """Draw a start at a fixed distance from the first, in any direction."""
    for _ in range(TRIES_PER_DASH):
        angle, toward = _draw_angle(rng), np.radians(rng.integers(360))
        start = (
            round(first[0] + START_DISTANCE * math.sin(toward)),
            round(first[1] + START_DISTANCE * math.cos(toward)),
        )
        if pen := _pen_at(start, angle):
            return pen
    return None


def _start_within(mask: np.ndarray, border: int, rng: np.random.Generator) -> Pen | None:
    """Draw a start at least ``border`` pixels from the edge, for a dash that meets nothing."""
    for _ in range(TRIES_PER_DASH):
        angle = _draw_angle(rng)
        blocked = np.ones((SIDE + 2 * REACH, SIDE + 2 * REACH), bool)
        inner = slice(REACH + border, -REACH - border)
        blocked[inner, inner] = mask[border:-border, border:-border] > FREE
        taken = np.zeros((SIDE, SIDE), bool)
        for down, right in dash(angle).core + REACH:
            taken |= blocked[down : down + SIDE, right : right + SIDE]
        free = np.flatnonzero(~taken)
        if not len(free):
            return None
        start = divmod(int(free[rng.integers(len(free))]), SIDE)
        if pen := _pen_at(start, angle):
            return pen
    return None


def _pen_at(start: tuple[int, int], angle: float) -> Pen | None:
    """Return the pen after a first dash from ``start``, or None if its ends lie outside of the image."""
    head = _moved(start, angle, LENGTH)
    pivot = _moved(head, _reversed(angle), STEP)
    if not all(0 <= coordinate < SIDE for coordinate in (*head, *pivot)):
        return None
    return Pen(pivot, angle, start, (start, dash(angle).mask))


def _extend(canvas: Canvas, pen: Pen, contrast: float, rng: np.random.Generator) -> Pen | None:
    """Add a dash to a contour; None in a dead end."""
    pivot = _moved(pen.pivot, pen.angle, LENGTH + 2 * MARGIN)
    offsets, angles = _circle()
    heads = offsets + np.array(pivot)
    inside = ((heads >= 0) & (heads < SIDE)).all(1)
    heads, angles = heads[inside], angles[inside]
    if not len(heads):
        return None
    turns = np.abs(angles - pen.angle)
    turns = np.minimum(np.minimum(turns, 2 * np.pi - turns) * CONTINUITY, np.pi / 2)
    weights = (1 - _nearby(canvas.mask, heads)) * np.cos(turns) ** 2
    total = weights.sum()
    if total < 1e-4:
        return None
    reached = np.cumsum(weights / total)
    for _ in range(TRIES_PER_DASH):
        chosen = int(np.argmax(reached > rng.random()))
        head, angle = (int(heads[chosen, 0]), int(heads[chosen, 1])), float(angles[chosen])
        drawn = dash(_reversed(angle))
        if not canvas.meets(head, drawn.mask):
            canvas.draw(head, drawn.line, contrast)
            canvas.block(*pen.patch)
            return Pen(pivot, angle, head, (head, drawn.mask))
    return None


def _nearby(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the largest mask within a margin of each position (n, 2); outside of the image there is none."""
    padded = np.zeros((SIDE + 2 * MARGIN, SIDE + 2 * MARGIN))
    padded[MARGIN:-MARGIN, MARGIN:-MARGIN] = mask
    around = (at + MARGIN)[:, None] + _disk()[None]  # (n, k, 2)
    largest: np.ndarray = padded[around[..., 0], around[..., 1]].max(1)
    return largest


@lru_cache(maxsize=1)
def _disk() -> np.ndarray:
    """Return the offsets (k, 2) within a margin."""
    return np.array(
        [
            (y, x)
            for y in range(-MARGIN, MARGIN + 1)
            for x in range(-MARGIN, MARGIN + 1)
            if y * y + x * x <= MARGIN * MARGIN
        ]
    )


@lru_cache(maxsize=1)
def _circle() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n, 2) of a circle around a point of attachment, each once, and their directions (n,)."""
    angles = np.radians(np.arange(0, 360, 360 / (2 * np.pi * STEP)))  # one pixel of arc apart
    circle = np.stack([STEP * np.sin(angles), STEP * np.cos(angles)], axis=1)
    offsets = np.unique(np.floor(circle).astype(int), axis=0)
    return offsets, np.arctan2(offsets[:, 0], offsets[:, 1])


@lru_cache(maxsize=1024)
def dash(angle: float) -> Dash:
    """Draw a dash from the middle of its patch in a direction, in radians."""
    side, middle = 2 * SCALE * REACH + 1, SCALE * REACH
    large = Image.new("L", (side, side))
    y, x = _moved((middle, middle), angle, SCALE * LENGTH)
    ImageDraw.Draw(large).line([(middle, middle), (x, y)], fill=255, width=round(SCALE * THICKNESS))
    line = np.array(large)
    radius = SCALE * MARGIN
    padded, wide = np.pad(line, radius), np.zeros_like(line)
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down * down + right * right <= radius * radius:
                shifted = padded[radius + down : radius + down + side, radius + right : radius + right + side]
                np.maximum(wide, shifted, out=wide)
    mask = _reduced(wide, 2 * REACH + 1)
    core = np.argwhere(mask == 1) - REACH + 1
    return Dash(_reduced(line, 2 * REACH + 1), mask, core[(core <= STEP).all(1)])


@lru_cache(maxsize=SIDE * SIDE)
def _dot(at: tuple[int, int]) -> np.ndarray:
    """Draw a dot, (SIDE, SIDE) from 0 to 1."""
    y, x = np.ogrid[: SCALE * SIDE, : SCALE * SIDE]
    inside = (y - SCALE * at[0]) ** 2 + (x - SCALE * at[1]) ** 2 <= (SCALE * DOT_RADIUS) ** 2
    return _reduced(inside.astype(np.uint8) * 255, SIDE)


def _reduced(large: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.LANCZOS)) / 255


@lru_cache(maxsize=4096)
def _overlap(at: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a patch around ``at`` lies in the image, and which part of it does."""
    inside, part = [], []
    for middle in at:
        low, high = max(0, middle - REACH), min(SIDE, middle + REACH + 1)
        inside.append(slice(low, high))
        part.append(slice(low - middle + REACH, high - middle + REACH))
    return (inside[0], inside[1]), (part[0], part[1])


def _draw_angle(rng: np.random.Generator) -> float:
    return math.radians(int(rng.integers(-180, 180)))


def _reversed(angle: float) -> float:
    return angle + math.pi if angle < 0 else angle - math.pi


def _moved(point: Sequence[int], angle: float, distance: float) -> tuple[int, int]:
    """Move a point (y, x), and round up as the published code does."""
    return math.ceil(point[0] + distance * math.sin(angle)), math.ceil(point[1] + distance * math.cos(angle))
