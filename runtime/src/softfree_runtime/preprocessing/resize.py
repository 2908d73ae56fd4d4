"""Bilinear resizing that averages over what a smaller pixel covers, as torch has it with ``antialias=True``."""

from __future__ import annotations

import numpy as np


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize float32 ``(C, H, W)`` to ``(C, height, width)``: first the rows' length, then their number."""
    return _along(_along(pixels, 2, width), 1, height)


def _along(pixels: np.ndarray, axis: int, new: int) -> np.ndarray:
    """Resize one axis, a tap of the kernel at a time, so that no dense matrix of weights is needed."""
    old = pixels.shape[axis]
    if new == old:
        return pixels
    first, weights = _taps(old, new)
    out = np.zeros([new if number == axis else side for number, side in enumerate(pixels.shape)], np.float32)
    shape = [-1 if number == axis else 1 for number in range(pixels.ndim)]
    for tap in range(weights.shape[1]):
        # Past the end the weight is 0, and any pixel will do.
        seen = pixels.take(np.minimum(first + tap, old - 1), axis)
        seen *= weights[:, tap].reshape(shape)
        out += seen
    return out


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel ``(new,)`` and weights ``(new, taps)`` of each new pixel: a triangle as wide as the step."""
    # In float32, as torch has it: rounded otherwise, far pixels of a large image would get other weights.
    scale = np.float32(old) / np.float32(new)
    reach = max(scale, np.float32(1))
    center = scale * (np.arange(new, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((center - reach + np.float32(0.5)).astype(np.int64), 0)
    end = np.minimum((center + reach + np.float32(0.5)).astype(np.int64), old)
    pixel = first[:, None] + np.arange(int((end - first).max()))
    distance = np.abs(pixel.astype(np.float32) - center[:, None] + np.float32(0.5)) / reach
    weights = np.maximum(1 - distance, 0)
    weights[pixel >= end[:, None]] = 0
    return first, weights / weights.sum(1, keepdims=True)
