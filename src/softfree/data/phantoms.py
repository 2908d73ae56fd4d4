"""Phantom mammograms: a finding of two to four pixels that a reduced image no longer shows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

Array = NDArray[np.float32]

CLASSES = ("clear", "calcified")
SHARP, SOFT = 0.65, 2.0
BRIGHTNESS = 0.9
COUNT = (12, 21)
STRAY = 4
CLUSTER = 13.0
GRAIN = 1.3
MOTTLE = 0.025
QUANTUM = .006


def _smooth_noise(rng: Generator, size: int, cells: int) -> Array:
    position = np.arange(size) * (cells / size) + 1.0
    weights = np.exp(-(((position[:, None] - np.arange(cells + 3)) / 0.6) ** 2) / 2)
    weights = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return weights @ rng.standard_normal((cells + 3, cells + 3), dtype=np.float32) @ weights.T


@dataclass(frozen=True)
class Body:
    left: bool
    height: float
    depth: float
    dense: float


def _body(rng):
    return Body(bool(rng.integers(2)), rng.uniform(.40, .48), rng.uniform(.6, .85), rng.uniform(.2, .55))


def _tissue(rng, body, size):
    axis = (np.arange(size, dtype=np.float32) + .5) / size
    wob = 1 + .02 * _smooth_noise(rng, size, 4)[0] + .006 * _smooth_noise(rng, size, 9)[0]
    cy = 0.5 + rng.uniform(-.03, .03)
    r2 = ((axis - cy) / body.height)[:, None] ** 2 + (axis[None] / (body.depth * wob[:, None])) ** 2
    thick = np.sqrt(np.clip(1 - r2 * r2, 0, 1))
    gl = sum(w * _smooth_noise(rng, size, g) for g, w in ((4, .8), (9, .6), (20, .4), (45, .25), (90, .12)))
    gland = 1 / (1 + np.exp(-(1.5 * gl + 3 * (body.dense - .3) + 1.6 - 3 * np.sqrt(r2))))
    strands = np.exp(-np.abs(_smooth_noise(rng, size, 14) + .5 * _smooth_noise(rng, size, 40)) * 9)
    return thick * (.30 + .45 * gland + .07 * strands), r2


def draw(rng, body: Body, sharp: bool, size: int):
    pic, r2 = _tissue(rng, body, size)
    pic = ndimage.gaussian_filter(pic, 1)
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), GRAIN)
    grain *= 1 / grain.std()
    quantum = rng.standard_normal((size, size), dtype=np.float32)
    pic += grain * MOTTLE * np.sqrt(pic + .03) / .7
    n = int(rng.integers(*COUNT))
    c = _place(rng, r2, .55)
    d = rng.standard_normal((n, 2)) * CLUSTER
    _stamp(pic, c + d, np.where(np.full(n, sharp), SHARP, SOFT), rng)
    for s in (SHARP, SOFT):
        k = int(rng.integers(0, STRAY + 1))
        for _ in range(k):
            _stamp(pic, _place(rng, r2, .8)[None], [s], rng)
    pic += QUANTUM * quantum
    if not body.left:
        pic = pic[:, ::-1]; c = np.array([size - 1 - c[0], c[1]])
    return np.clip(pic, 0, 1), c, n

def _place(rng, r2, lim):
    size = len(r2)
    while True:
        c = rng.uniform(0.06 * size, .94 * size, 2)
        if r2[int(c[1]), int(c[0])] < lim:
            return c

def _stamp(pic, at, sig, rng):
    size = pic.shape[0]
    for (x, y), s in zip(at, sig):
        b = BRIGHTNESS * rng.uniform(.7, 1.3)
        h = int(4 * s + 2)
        ix, iy = int(round(x)), int(round(y))
        x0, x1, y0, y1 = max(ix - h, 0), min(ix + h + 1, size), max(iy - h, 0), min(iy + h + 1, size)
        if x0 >= x1 or y0 >= y1:
            continue
        gx = np.exp(-(np.arange(x0, x1) - x) ** 2 / 2 / s ** 2)
        gy = np.exp(-(np.arange(y0, y1) - y) ** 2 / 2 / s ** 2)
        pic[y0:y1, x0:x1] += (b / (2 * np.pi * s * s) * gy[:, None] * gx[None]).astype(np.float32)
