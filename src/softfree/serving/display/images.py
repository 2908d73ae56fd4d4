"""An image as a browser shows it: windowed gray or color, whole, reduced, or in tiles."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from softfree_runtime.readers.image import DecodedImage


@dataclass(frozen=True)
class Window:
    """What is shown as black and white: the values from ``level - width / 2`` to ``level + width / 2``."""

    width: float
    level: float

    @property
    def low(self) -> float:
        """Value shown as black."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """Value shown as white."""
        return self.level + self.width / 2


@dataclass(frozen=True)
class ShownImage:
    """A decoded image on its way to the screen, where its pixels are square."""

    image: DecodedImage

    @property
    def gray(self) -> bool:
        """Whether it has one channel, so that a window applies."""
        return self.image.pixels.shape[2] == 1

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in square pixels."""
        height, width = self.image.pixels.shape[:2]
        down, across = self.image.growth
        return round(width * across), round(height * down)

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) in the file's pixels."""
        height, width = self.image.pixels.shape[:2]
        return width, height

    def facts(self) -> dict[str, Any]:
        """Describe it for the page."""
        image, (width, height) = self.image, self.source_size
        facts: dict[str, Any] = {
            "kind": "image",
            "width": self.size[0],
            "height": self.size[1],
            "source": [width, height],
            "spacing": image.spacing,
            "stored": image.stored,
            "steps": list(image.steps),
            "gray": self.gray,
        }
        if self.gray:
            facts["window"] = {
                "low": float(image.low),
                "high": float(image.high),
                "least": float(min(image.pixels.min(), image.low)),
                "greatest": float(max(image.pixels.max(), image.high)),
                "whole": image.pixels.dtype.kind in "iu",
            }
        return facts

    def drawn(self, window: Window | None = None, side: int | None = None) -> Image.Image:
        """Draw the whole image.

        Args:
            window: Of a gray image; default: the file's own.
            side: Longest side in pixels, to which a larger image is reduced.
        """
        whole = self.crop((0, 0, *self.source_size), window)
        width, height = self.size
        factor = 1.0 if side is None else min(1.0, side / max(width, height))
        wanted = max(1, round(width * factor)), max(1, round(height * factor))
        return whole if whole.size == wanted else whole.resize(wanted, Image.Resampling.BOX)

    def crop(self, box: tuple[int, int, int, int], window: Window | None = None) -> Image.Image:
        """Draw a rectangle (left, top, right, bottom) of the file's pixels."""
        left, top, right, bottom = box
        part = replace(self.image, pixels=self.image.pixels[top:bottom, left:right])
        if window is not None and self.gray:
            part = replace(part, low=window.low, high=window.high)
        return to_image(part.unit())


def to_image(unit: np.ndarray) -> Image.Image:
    """Return (H, W, 1 or 3) or (H, W) in [0, 1] as a gray or color image of 8 bits."""
    shown = np.rint(unit * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(shown[..., 0] if shown.shape[2:] == (1,) else shown))


def png(image: Image.Image) -> bytes:
    """Encode as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """Encode as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
