"""Near duplicates: images saved again, with noise, brighter, smaller, or slightly shifted.

At a small size all radiographs look alike. Only their fine structure distinguishes them, so thumbnails are compared
without their coarse structure, and a pair counts only if it stands out from the other pairs of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIDE = 64
COARSE = 32  # side of the thumbnails in the comparison of all pairs
MAX_IMAGES = 50_000
"""Maximum number of images; the number of pairs grows with its square."""
ALIKE = 0.93
"""Minimum correlation of fine structure of near duplicates. Of distinct pairs the highest was 0.61 among 640 blood
cells, 0.66 among 240 chest radiographs, 0.86 among 1324 dermoscopic images and 0.95 among 106 fundus photographs, for
which :func:`_chance` asks for 0.97. The same image with noise, as JPEG of quality 50 or at half its size had 0.96 or
more. All four pairs above it among the dermoscopic images were confirmed to be one lesion."""
_CANDIDATE = 0.6  # minimum for a closer comparison
_MAX_COMPARED = 5_000  # maximum number of pairs in the closer comparison
_MAX_PAIRS = 100_000  # maximum number of pairs
_SHIFT = 3  # of SIDE, in each direction
_BLOCK = 2_000
_SAMPLE = 1_000
_FLAT = 1e-6


class Pair(NamedTuple):
    """Two images, by their numbers, the lower one first, and the correlation of their fine structure."""

    first: int
    second: int
    similarity: float


def thumbnail(pixels: np.ndarray, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """Reduce an image to a thumbnail for finding copies.

    Args:
        pixels: ``(H, W, C)``; channels are summed.
        low: Value displayed as black.
        high: Value displayed as white.

    Returns:
        uint8 ``(SIDE, SIDE)`` over its own range; all 0 for an image of one value.
    """
    step = max(1, min(pixels.shape[:2]) // (8 * SIDE))  # large images are subsampled
    subsampled = pixels[::step, ::step]
    gray = sum(
        (subsampled[..., k].astype(np.float32).clip(low, high) for k in range(subsampled.shape[2])), np.float32(0)
    )
    small = np.asarray(Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    black, white = float(small.min()), float(small.max())
    if not _FLAT < white - black < math.inf:
        return np.zeros((SIDE, SIDE), np.uint8)
    return ((small - black) * (255 / (white - black))).round().astype(np.uint8)


def find_pairs(thumbnails: np.ndarray) -> list[Pair]:
    """Find pairs of near duplicates, the most similar first.

    Args:
        thumbnails: uint8 ``(n, SIDE, SIDE)`` of :func:`thumbnail`, at most ``MAX_IMAGES``; constant ones have no pair.
    """
    shown = np.flatnonzero(thumbnails.any(axis=(1, 2)))
    if len(shown) < 2:
        return []
    thumbnails = thumbnails[shown]
    rows = _coarse(thumbnails)
    expected = _chance(rows)
    threshold = max(ALIKE, expected)
    pairs = _highest(rows, max(_CANDIDATE, expected))
    sure = [pair for pair in pairs if pair.similarity >= threshold]
    unsure = sorted((pair for pair in pairs if pair.similarity < threshold), key=_by_similarity)[:_MAX_COMPARED]
    confirmed = (pair for pair in _compared_closely(thumbnails, unsure) if pair.similarity >= threshold)
    numbered = (Pair(int(shown[first]), int(shown[second]), value) for first, second, value in (*sure, *confirmed))
    return sorted(numbered, key=_by_similarity)


def _by_similarity(pair: Pair) -> tuple[float, int, int]:
    return -pair.similarity, pair.first, pair.second


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    """Return the fine structure of coarse thumbnails as unit vectors: float32 ``(n, COARSE * COARSE)``."""
    times = SIDE // COARSE
    out = np.empty((len(thumbnails), COARSE * COARSE), np.float32)
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK]
        small = block.reshape(-1, COARSE, times, COARSE, times).mean(axis=(2, 4), dtype=np.float32)
        out[start : start + _BLOCK] = _unit(_fine(small, 1).reshape(len(block), -1))
    return out


def _fine(images: np.ndarray, sigma: float) -> np.ndarray:
    return images - gaussian_filter(images, (0, sigma, sigma), mode="nearest")


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=-1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), _FLAT)


def _chance(rows: np.ndarray) -> float:
    """Return the highest correlation expected among all pairs of distinct images of this set.

    Fisher's z of a sample of pairs is modeled as normal, from its median and upper quartile, which are robust to
    the few pairs that are copies.
    """
    count = len(rows)
    sample = rows if count <= _SAMPLE else rows[np.random.default_rng(0).choice(count, _SAMPLE, replace=False)]
    if len(sample) < 10:
        return 0.0
    pairs = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    middle, upper = np.quantile(np.arctanh(pairs.clip(-0.9999, 0.9999)), (0.5, 0.75))
    number = count * (count - 1) / 2
    return float(np.tanh(middle + (upper - middle) / 0.6745 * math.sqrt(2 * math.log(number))))


def _highest(rows: np.ndarray, least: float) -> list[Pair]:
    """Return pairs with a correlation of at least ``least``; at most the ``_KEPT`` highest."""
    pairs: list[Pair] = []
    for block in _blocks(rows, least):
        pairs += block
        if len(pairs) > _MAX_PAIRS:
            pairs = sorted(pairs, key=_by_similarity)[:_MAX_PAIRS]
    return pairs


def _blocks(rows: np.ndarray, least: float) -> Iterator[list[Pair]]:
    for start in range(0, len(rows), _BLOCK):
        for other in range(start, len(rows), _BLOCK):
            products = rows[start : start + _BLOCK] @ rows[other : other + _BLOCK].T
            if start == other:
                products = np.triu(products, 1)
            row_index, column_index = np.nonzero(products >= least)
            values = products[row_index, column_index]
            if len(values) > _MAX_PAIRS:
                best = np.argpartition(-values, _MAX_PAIRS)[:_MAX_PAIRS]
                row_index, column_index, values = row_index[best], column_index[best], values[best]
            yield [
                Pair(int(a) + start, int(b) + other, float(v))
                for a, b, v in zip(row_index, column_index, values, strict=True)
            ]


def _compared_closely(thumbnails: np.ndarray, pairs: list[Pair]) -> Iterator[Pair]:
    """Compare pairs again, at full size and shifted against each other; keep the better similarity."""
    for first, second, value in pairs:
        images = _fine(thumbnails[[first, second]].astype(np.float32), 2)
        yield Pair(first, second, max(value, _best_shift(*images)))


def _best_shift(first: np.ndarray, second: np.ndarray) -> float:
    """Return the highest correlation of the inner part of one image with any shift of the other."""
    inner = SIDE - 2 * _SHIFT
    middle = first[_SHIFT : _SHIFT + inner, _SHIFT : _SHIFT + inner].ravel()
    shifts = product(range(2 * _SHIFT + 1), repeat=2)
    moved = np.stack([second[y : y + inner, x : x + inner].ravel() for y, x in shifts])
    return float((_unit(moved) @ _unit(middle)).max())
