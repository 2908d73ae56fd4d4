"""Maps over an image that fits on a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from softfree.saliency.geometry import TokenGrid, scaled
from softfree.saliency.overlay import as_rgb, max_magnitude, paint, with_label
from softfree_runtime.readers.image import DecodedImage

_ROWS = 64  # of the reduced image, computed at once


@dataclass(frozen=True)
class RenderedMap:
    """An image with maps to draw over it.

    Attributes:
        image: (H, W, 1 or 3) or (H, W), values in [0, 1].
        values: Values of each map, (h, w) on the token grid.
        token_grid: Positions of the tokens on the image.
        note: What part of the source it shows or how it was reduced, for a title; else empty.
    """

    image: np.ndarray
    values: tuple[np.ndarray, ...]
    token_grid: TokenGrid
    note: str = ""

    def thumbnails(self, signed: Sequence[bool], labels: Sequence[str], side: int) -> list[bytes]:
        """Encode PNGs of the image and of the image with each map.

        Args:
            signed: Whether zero is the middle of the colors, for each map.
            labels: Text below each map.
            side: Pixels of the longer side; the pixels of a small image become squares.
        """
        pngs = [_png(_resized(as_rgb(self.image), side))]
        for values, is_signed, label in zip(self.values, signed, labels, strict=True):
            painted = paint(self.image, self.token_grid.spread(values), max_magnitude(values), is_signed)
            pngs.append(_png(with_label(_resized(painted, side), label)))
        return pngs


def render_image(
    image: DecodedImage, values: tuple[np.ndarray, ...], token_grid: TokenGrid, longest: int
) -> RenderedMap:
    """Reduce an image to at most ``longest`` pixels a side, each the mean of a square of pixels."""
    times = -(-max(token_grid.shape) // longest)
    if times == 1:
        return RenderedMap(image.unit(), values, token_grid)
    step = times * _ROWS
    bands = [_mean(unit_rows(image, top, top + step), times) for top in range(0, token_grid.shape[0], step)]
    reduced = np.concatenate(bands)
    reduced_grid = scaled(token_grid, (1 / times, 1 / times), reduced.shape[:2])
    return RenderedMap(reduced, values, reduced_grid, f"the image reduced {times} times")


def unit_rows(image: DecodedImage, top: int, bottom: int) -> np.ndarray:
    """Rows of an image as displayed, float32 (n, W, C) in [0, 1]."""
    return replace(image, pixels=image.pixels[top:bottom]).unit()


def _mean(pixels: np.ndarray, times: int) -> np.ndarray:
    """Average squares of pixels (H, W, C), smaller ones at the edges."""
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    return F.avg_pool2d(planes, times, ceil_mode=True, count_include_pad=False).permute(1, 2, 0).numpy()


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    zoom = side // max(image.size)
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
