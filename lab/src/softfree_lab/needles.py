"""Phantoms of whole slides, of any size, whose label depends on two small marks far apart: a test of long range.

A slide is a function of its seed: any rectangle is computed on demand, and nothing is stored. It looks like stained
tissue on glass, and on the tissue are two specks of ink, each *brown* or *blue* with equal probability. The label says
whether both have the same color. Along one axis the specks are at least half a side apart, so that no window smaller
than half a side sees both.

**Why sums of scores cannot solve it.** Take a model that scores each token or tile by itself (with any function, also
of its position) and adds the scores; its logit is a sum over tiles. Fix everything except the two colors. With c the
score of the tiles without marks and f, g those of the tiles with the first and the second mark, the four equally likely
slides have the logits

    same color:   c + f(brown) + g(brown),   c + f(blue) + g(blue)
    mixed:         c + f(brown) + g(blue),    c + f(blue) + g(brown)

and the first two have the same sum, hence the same mean m, as the last two. Three things follow:

- Cross-entropy: softplus is convex, so by Jensen's inequality the mean loss of the equal pairs is at least
  softplus(-m), that of the mixed pairs at least softplus(m), and the total at least half their sum, which is at least
  log 2: the loss of a model at chance. Training such a model on any number of slides has nothing to find.
- AUROC: both pairs lie symmetrically around m. If the effect of a mark, f(brown) - f(blue), does not depend on the rest
  of the slide, the logits of both classes are the same independent noise plus a symmetric term, and the AUROC is
  exactly 1/2.
- Accuracy is not a suitable measure: a threshold next to m gets three of the four right, as with any exclusive or.

So a nonlinear function must see both marks together: attention over all tokens, or a layer after the pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.random import default_rng
from scipy import ndimage
from torch import Tensor

from softfree_runtime.core.errors import UserError

CLASSES = ("mixed", "same")
KINDS = ("brown", "blue")
INK = np.array([[0.45, 0.24, 0.10], [0.10, 0.32, 0.62]])  # red, green, blue of each kind, from 0 to 1
# Optical density of hematoxylin and eosin in red, green and blue: Ruifrok and Johnston, Anal Quant Cytol Histol 2001.
HEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
BLOCK = 256  # side of one tile of texture, pixels
TILES = 16
CELLS = 32  # along each side of the map of tissue
LEVELS = 64  # of tissue and texture


@dataclass(frozen=True)
class Mark:
    """A speck of ink.

    Attributes:
        kind: One of :data:`KINDS`.
        y, x: Center in pixels from the top and from the left.
    """

    kind: str
    y: int
    x: int


class NeedleSlide:
    """One slide, computed as it is read.

    Args:
        seed: Equal seeds give equal slides.
        side: Height and width in pixels, up to millions.
        mark: Diameter of a mark in pixels; it does not grow with the slide.
        kinds: Kinds of the two marks, instead of those drawn from the seed; tissue and positions are unchanged.

    Attributes:
        marks: The two marks.
        label: 1 if both are of the same kind, else 0: an index of :data:`CLASSES`.

    Raises:
        UserError: A side of less than eight marks, an unknown kind, or a number of kinds other than two.
    """

    def __init__(self, seed: int, side: int, *, mark: int = 32, kinds: Sequence[str] | None = None) -> None:
        if mark < 1 or side < 8 * mark:
            raise UserError(f"Got side={side} with marks of {mark} pixels: expected a side of at least eight marks.")
        if kinds is not None and (len(kinds) != 2 or not set(kinds) <= set(KINDS)):
            raise UserError(f"Got kinds={tuple(kinds)}: expected two of {', '.join(KINDS)}.")
        rng = default_rng((seed, 0))
        self.seed, self.side, self.mark = seed, side, mark
        drawn = rng.integers(0, 2, 2)  # first, so that the colors depend on nothing else
        kinds = kinds or (KINDS[drawn[0]], KINDS[drawn[1]])
        self._tissue = _draw_tissue(rng)
        positions = self._draw_positions(rng)
        self.marks = tuple(Mark(kind, int(y), int(x)) for kind, (y, x) in zip(kinds, positions, strict=True))
        self.label = int(kinds[0] == kinds[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Compute a rectangle of the slide.

        Returns:
            (height, width, 3) uint8: red, green, blue.

        Raises:
            UserError: The rectangle is empty or extends beyond the slide.
        """
        if min(top, left) < 0 or min(height, width) < 1 or max(top + height, left + width) > self.side:
            raise UserError(
                f"Got {height} x {width} pixels at ({top}, {left}): expected some within {self.side} x {self.side}."
            )
        shade = self._texture(top, left, height, width)
        index = self._levels(top, left, height, width)
        index *= LEVELS
        index += shade
        for mark in self.marks:
            self._paint(index, shade, mark, top, left)
        return _colors()[index].view(np.uint8).reshape(height, width, 4)[..., :3]

    def _levels(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Compute the amount of tissue at each pixel, (height, width) uint16 below LEVELS, bilinear between cells.

        Only elementwise operations, so that the bits of a pixel do not depend on what is read with it.
        """
        above, down = self._cell(top, height)
        before, across = self._cell(left, width)
        rows = self._tissue[above] + (self._tissue[above + 1] - self._tissue[above]) * down[:, None]
        steps = np.diff(rows, axis=1)
        levels = steps.take(before, axis=1)
        levels *= across
        levels += rows.take(before, axis=1)
        return levels.astype(np.uint16)

    def _cell(self, start: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the cell of each pixel along one axis, and how far into it the pixel lies, from 0 to 1."""
        position = (np.arange(start, start + number) + 0.5) * (CELLS / self.side)
        cell = position.astype(np.intp)
        return cell, (position - cell).astype(np.float32)

    def _texture(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Lay tiles side by side, (height, width) uint8 below LEVELS; each row of blocks draws its own tiles."""
        tiles, columns = _tiles(), -(-self.side // BLOCK)
        shade = np.empty((height, width), np.uint8)
        for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
            numbers = default_rng((self.seed, 1, row)).integers(0, len(tiles), columns)
            inside_y, y = _overlap(row, top, height)
            for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
                inside_x, x = _overlap(column, left, width)
                shade[y, x] = tiles[numbers[column]][inside_y, inside_x]
        return shade

    def _paint(self, index: np.ndarray, shade: np.ndarray, mark: Mark, top: int, left: int) -> None:
        """Overwrite the pixels of ``index`` that a mark covers."""
        first_y, first_x = mark.y - self.mark // 2, mark.x - self.mark // 2
        y = np.arange(max(first_y, top), min(first_y + self.mark, top + index.shape[0]))
        x = np.arange(max(first_x, left), min(first_x + self.mark, left + index.shape[1]))
        center = (self.mark - 1) / 2
        inside = (y[:, None] - first_y - center) ** 2 + (x - first_x - center) ** 2 <= (self.mark / 2) ** 2
        where = np.ix_(y - top, x - left)
        ink = LEVELS * (LEVELS + KINDS.index(mark.kind)) + shade[where].astype(np.uint16)
        index[where] = np.where(inside, ink, index[where])

    def _draw_positions(self, rng: np.random.Generator) -> np.ndarray:
        """Draw two positions (y, x) on the tissue, at least half a side apart along one axis."""
        while True:
            positions = rng.integers(self.mark, self.side - self.mark, (256, 2, 2))  # (tries, marks, y and x)
            cell = positions * CELLS // self.side
            on_tissue = (self._tissue[cell[..., 0], cell[..., 1]] > 0.6 * LEVELS).all(1)
            apart = abs(positions[:, 0] - positions[:, 1]).max(1) * 2 >= self.side
            (valid,) = np.nonzero(on_tissue & apart)
            if len(valid):
                return positions[valid[0]]


class NeedleRows:
    """A slide as :class:`softfree.streaming.Rows`, for streaming through a model.

    Args:
        slide: The slide.
        prepare: Turns uint8 rows (3, n, W) into the model's input, pixel by pixel.
    """

    def __init__(self, slide: NeedleSlide, prepare: Callable[[Tensor], Tensor]) -> None:
        self.slide, self.prepare = slide, prepare
        self.shape = (3, *slide.size)

    def read(self, top: int, bottom: int) -> Tensor:
        """Return the rows from ``top`` up to ``bottom``, (3, bottom - top, W)."""
        pixels = self.slide.read(top, 0, bottom - top, self.slide.side)
        return self.prepare(torch.from_numpy(pixels).permute(2, 0, 1))


def _overlap(block: int, start: int, number: int) -> tuple[slice, slice]:
    """Return the overlap of a block with a range along one axis, relative to the block and to the range."""
    first, last = max(block * BLOCK, start), min((block + 1) * BLOCK, start + number)
    return slice(first - block * BLOCK, last - block * BLOCK), slice(first - start, last - start)


def _draw_tissue(rng: np.random.Generator) -> np.ndarray:
    """Draw tissue with an uneven edge and uneven density: (CELLS + 1, CELLS + 1), from 0 to below LEVELS."""
    axis = np.linspace(-1, 1, CELLS + 1)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.85, 1.0, 2)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    along, aside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = np.hypot(along / stretch[0], aside / stretch[1])

    def hills(width: float) -> np.ndarray:
        drawn = ndimage.gaussian_filter(rng.standard_normal((CELLS + 1, CELLS + 1)), width, mode="wrap")
        return drawn / drawn.std()

    edge = np.clip((0.95 - radius + 0.07 * hills(1.5)) / 0.06, 0, 1)
    density = np.clip(0.85 + 0.07 * hills(1), 0.6, 0.99)
    return (edge * density * LEVELS).astype(np.float32)


@lru_cache(maxsize=1)
def _tiles() -> np.ndarray:
    """Draw the texture of all slides: fibers below LEVELS / 2, nuclei above; (8 TILES, BLOCK, BLOCK) uint8."""
    rng = default_rng(2001)
    tiles = []
    for _ in range(TILES):
        fibers = ndimage.gaussian_filter(rng.standard_normal((BLOCK, BLOCK)), 1.5, mode="wrap")
        level = np.clip(LEVELS / 4 * (1 + 0.4 * fibers / fibers.std()), 0, LEVELS // 2 - 1)
        _add_nuclei(level, rng)
        tile = level.astype(np.uint8)
        tiles += [rotated for k in range(4) for rotated in (np.rot90(tile, k), np.rot90(tile.T, k))]
    return np.ascontiguousarray(tiles)


def _add_nuclei(level: np.ndarray, rng: np.random.Generator) -> None:
    """Draw about 200 ellipses of 5 to 10 pixels, none across the border to another tile."""
    for _ in range(rng.integers(150, 250)):
        long, short, angle = rng.uniform(3, 5), rng.uniform(2.2, 3.2), rng.uniform(0, np.pi)
        center = rng.uniform(6, BLOCK - 6, 2)
        y, x = np.mgrid[-5:6, -5:6] + np.rint(center).astype(int)[:, None, None]
        down, right = y - center[0], x - center[1]
        along, aside = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
        inside = (along / long) ** 2 + (aside / short) ** 2 < 1
        dark = LEVELS // 2 + rng.uniform(8, 31) - 3 * rng.random(inside.shape)
        level[y[inside], x[inside]] = dark[inside]


@lru_cache(maxsize=1)
def _colors() -> np.ndarray:
    """Return red, green, blue and a spare byte as one uint32, by ``tissue level * LEVELS + texture``; then the inks."""
    tissue, shade = np.divmod(np.arange(LEVELS * LEVELS), LEVELS)
    tissue, nucleus = tissue / LEVELS, shade >= LEVELS // 2
    eosin = np.where(nucleus, 0.12, 0.08 + 0.22 * shade / (LEVELS // 2))
    hematoxylin = np.where(nucleus, 0.25 + 0.5 * (shade - LEVELS // 2) / (LEVELS // 2), 0.05)
    density = 0.02 + tissue[:, None] * (eosin[:, None] * EOSIN + hematoxylin[:, None] * HEMATOXYLIN)
    ink = INK[:, None] * np.linspace(0.85, 1.15, LEVELS)[:, None]  # (kinds, LEVELS, 3)
    colors = np.concatenate([10**-density, ink.reshape(-1, 3)])
    rgbx = np.zeros((len(colors), 4), np.uint8)
    rgbx[:, :3] = np.rint(np.clip(colors, 0, 1) * 255)
    return rgbx.view(np.uint32)[:, 0]
