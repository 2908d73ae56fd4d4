"""The protocol of slide readers: levels of pixels, the finest first."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Pair = tuple[float, float]


class Pyramid(Protocol):
    """Levels of one slide.

    Attributes:
        mpp: Micrometers per pixel (x, y) of level 0 according to the file; None if it does not say.
        sizes: (width, height) of each level in its own pixels, the finest level first.
        corrections: What was assumed or corrected, in words.
    """

    mpp: Pair | None
    sizes: tuple[tuple[int, int], ...]
    corrections: tuple[str, ...]

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read pixels that lie inside a level.

        Args:
            level: Number of the level.
            x: First column, in pixels of the level.
            y: First row.
            width: Columns.
            height: Rows.

        Returns:
            uint8 (height, width, 3), transparent pixels on white; and the fraction of a pixel (x, y) by which
            the region starts further right and down than requested.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def plausible(x: float | str | None, y: float | str | None) -> Pair | None:
    """Return a resolution in micrometers per pixel if it can be a slide's, else None.

    Beyond 50 um it is the resolution of a screen or a printer (72, 96 or 300 dots per inch), which programs write into
    a TIFF that has none. No scanner's pixels are ten times as long as wide.
    """
    try:
        pair = float(x or "nan"), float(y or "nan")
    except ValueError:
        return None
    return pair if all(0.01 <= value <= 50 for value in pair) and max(pair) <= 10 * min(pair) else None
