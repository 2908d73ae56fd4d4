"""Phantom radiographs: computed images of a test block whose finding is only two to four pixels wide.

They are made after the blocks that mammography units are checked with: a slab of uneven thickness with masses, fibres
and specks in it. In a *calcified* phantom a cluster of sharp specks stands for micro-calcifications; in a *clear* one a
cluster of as many specks with as much brightness is blurred over a few pixels. Single specks of both sorts are in all
of them. So neither the brightest pixel nor the mean gives the class away: it is in the finest detail. Reduced to
224 x 224, where a speck is about a pixel, less of the difference is left, and the small transformer of the demo makes
more mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator, default_rng
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from softfree_runtime.core.files import replacing

CLASSES = ("clear", "calcified")
NOTICE = "These images are phantoms: computed, not taken of patients."
SPECKS = (40, 61)  # in a cluster, from and to below
SPREAD = 22.0  # standard deviation of a cluster, pixels
SCATTERED = 10  # specks of each sort anywhere
BRIGHTNESS = 0.5
# Deviation of the slab's shade by the number of hills a side.
THICKNESS = {4: 0.03, 10: 0.015, 32: 0.006, 128: 0.012}
SATURATION = 0.75  # of the detector, so that the brightest pixel is the same in all
SHARP, BLURRED = 0.6, 2.2  # standard deviation of the blur of a speck, pixels


@dataclass(frozen=True)
class Phantom:
    """One image.

    Attributes:
        pixels: (H, W) uint8.
        x, y: center of the cluster, pixels from the left and from the top.
        specks: how many the cluster has.
    """

    pixels: np.ndarray
    x: float
    y: float
    specks: int


def write_phantoms(
    folder: Path, *, n_train: int = 240, n_val: int = 40, n_test: int = 100, size: int = 512, seed: int = 0
) -> Path:
    """Write gray PNGs and the table ``phantoms.csv``.

    The table has ``path``, ``label``, ``patient_id`` (two images each), ``split``, the cluster's ``x`` and ``y`` and
    number of ``specks``, and ``phantom`` = yes; each PNG says so in its text too.

    Args:
        folder: made when it is not there.
        n_train, n_val, n_test: images in each split, half of each class.
        size: side, pixels; specks do not grow with it.
        seed: equal seeds give equal files.

    Returns:
        The path of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
    rows = []
    for number, split in enumerate(splits):
        calcified = number // 2 % 2 == 1
        phantom = draw_phantom(default_rng((seed, number)), calcified=calcified, size=size)
        name = f"phantom_{number + 1:04}.png"
        _save(folder / name, phantom.pixels)
        finding = (round(phantom.x, 1), round(phantom.y, 1), phantom.specks)
        rows.append((name, CLASSES[calcified], f"phantom{number // 2 + 1:04}", split, *finding, "yes"))
    columns = ["path", "label", "patient_id", "split", "x", "y", "specks", "phantom"]
    table = folder / "phantoms.csv"
    with replacing(table) as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
    return table


def draw_phantom(rng: Generator, *, calcified: bool, size: int = 512) -> Phantom:
    """Compute one phantom: block, masses, fibres, specks, noise."""
    block = 0.42 + sum(weight * _clouds(rng, size, cells) for cells, weight in THICKNESS.items())
    block += _masses(rng, size) + _fibres(rng, size)
    x, y = rng.uniform(0.15 * size, 0.85 * size, 2)
    count = int(rng.integers(*SPECKS))
    cluster = rng.normal((x, y), SPREAD, (count, 2))
    sharp, blurred = rng.uniform(0.03 * size, 0.97 * size, (2, SCATTERED, 2))
    if calcified:
        sharp = np.concatenate([sharp, cluster])
    else:
        blurred = np.concatenate([blurred, cluster])
    block += ndimage.gaussian_filter(_specks(rng, sharp, size), SHARP)
    block += ndimage.gaussian_filter(_specks(rng, blurred, size), BLURRED)
    block += 0.01 * rng.standard_normal((size, size), dtype=np.float32)  # quantum noise
    pixels = (np.clip(block / SATURATION, 0, 1) * 255).round().astype(np.uint8)
    return Phantom(pixels, float(x), float(y), count)


def _clouds(rng: Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise of standard deviation 1 with ``cells`` hills per side: a grid of random heights, blurred."""
    position = (np.arange(size) + 0.5) * cells / size + 1
    blur = np.exp(-(((position[:, None] - np.arange(cells + 3)) / 0.6) ** 2) / 2)  # (size, cells + 3)
    blur = (blur / np.linalg.norm(blur, axis=1, keepdims=True)).astype(np.float32)
    return blur @ rng.standard_normal((cells + 3, cells + 3), dtype=np.float32) @ blur.T


def _masses(rng: Generator, size: int) -> np.ndarray:
    """A few soft round shadows."""
    axis = np.arange(size, dtype=np.float32)
    shadow = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(1, 4)):
        (x, y), radius = rng.uniform(0, size, 2), rng.uniform(0.03, 0.06) * size
        across, down = (np.exp(-(((axis - center) / radius) ** 2)) for center in (x, y))
        shadow += 0.08 * np.outer(down, across)
    return shadow


def _fibres(rng: Generator, size: int) -> np.ndarray:
    """A few thin curved lines."""
    canvas = np.zeros((size, size), np.float32)
    along = np.linspace(-0.5, 0.5, 2 * size)
    for _ in range(rng.integers(2, 5)):
        angle, length, bend = rng.uniform(0, np.pi), rng.uniform(0.1, 0.3) * size, rng.uniform(-0.3, 0.3)
        x, y = rng.uniform(0.1 * size, 0.9 * size, 2)
        ahead, aside = along * length, bend * length * along**2
        columns = np.rint(x + ahead * np.cos(angle) - aside * np.sin(angle)).astype(int)
        rows = np.rint(y + ahead * np.sin(angle) + aside * np.cos(angle)).astype(int)
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        canvas[rows[inside], columns[inside]] = 1
    return 0.35 * ndimage.gaussian_filter(canvas, 1.2)


def _specks(rng: Generator, positions: np.ndarray, size: int) -> np.ndarray:
    """Rectangles of 2 to 4 pixels a side at ``positions`` (n, 2), x before y."""
    canvas = np.zeros((size, size), np.float32)
    for column, row in np.clip(positions, 4, size - 8).astype(int):
        height, width = rng.integers(2, 5, 2)
        canvas[row : row + height, column : column + width] = BRIGHTNESS * rng.uniform(0.7, 1.0)
    return canvas


def _save(path: Path, pixels: np.ndarray) -> None:
    about = PngInfo()
    about.add_text("Description", NOTICE)
    about.add_text("Software", "softfree")
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, pnginfo=about, compress_level=1)
