"""Tissue detection: Otsu's threshold on the saturation of a thumbnail, as in CLAM (Lu et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import map_coordinates
from skimage.filters import threshold_otsu
from skimage.filters.rank import median
from skimage.morphology import disk, remove_small_holes, remove_small_objects

from softfree.data.slide_readers.slide import Slide
from softfree_runtime.core.errors import ReadError

# Saturation, of 255. Bare glass has 2 to 6 and its noise must not be split in two; stain has 30 and more, and pale
# tissue must not be lost beside dark tissue, or on a slide that is all tissue.
_LEAST, _MOST = 12, 38
_DARK = 25  # of 255: below, saturation says nothing; black borders, dust
_SPECK_MM2 = 0.01
_SPECK_SHARE = 1 / 2000  # of all tissue: dust and scanning marks at the border would widen the box to the whole slide


@dataclass(frozen=True)
class Tissue:
    """A mask of tissue.

    Attributes:
        mask: Boolean (h, w).
        mpp: Micrometers per pixel of the mask; its corner is the slide's.
    """

    mask: np.ndarray
    mpp: float

    def box_mm(self) -> tuple[float, float, float, float]:
        """Return the left, upper, right and lower edge of all tissue in millimeters."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        left, top, right, bottom = (float(edge) * self.mpp / 1000 for edge in edges)
        return left, top, right, bottom

    def share(self, left_mm: np.ndarray, top_mm: np.ndarray, side_mm: float) -> np.ndarray:
        """Return the fraction of tissue (n,) in squares, given their left and upper edges (n,) and their side."""
        edges = [np.asarray(edge) * 1000 / self.mpp for edge in (left_mm, top_mm)]
        side = side_mm * 1000 / self.mpp

        def area(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            """Return the tissue above and left of a point; linear within a pixel, so interpolation is exact."""
            return map_coordinates(self._summed, [y, x], order=1, mode="nearest")

        (x, y), (right, bottom) = edges, [edge + side for edge in edges]
        return (area(right, bottom) - area(x, bottom) - area(right, y) + area(x, y)) / side**2

    @cached_property
    def _summed(self) -> np.ndarray:
        summed = np.zeros([length + 1 for length in self.mask.shape])
        summed[1:, 1:] = self.mask.cumsum(0).cumsum(1)
        return summed


def find_tissue(slide: Slide, mpp: float = 8.0) -> Tissue:
    """Find the tissue of a slide.

    Saturation (HSV) of a thumbnail, median over discs of 7 pixels, Otsu's threshold kept between that of bare glass and
    that of pale stain; then holes below 0.01 square millimeters are filled, and specks removed that are smaller than
    that or than 0.05 % of all tissue.

    Args:
        slide: The slide.
        mpp: Micrometers per pixel of the thumbnail; coarser if the slide is.

    Raises:
        ReadError: Status ``no_tissue`` if the slide is all background.
    """
    mpp = max(mpp, *slide.mpp)
    saturation = median(_saturation(slide.thumbnail(mpp)), disk(3))
    level = threshold_otsu(saturation) if saturation.min() < saturation.max() else 0
    least = max(1, round(_SPECK_MM2 * (1000 / mpp) ** 2))
    mask = remove_small_objects(saturation > np.clip(level, _LEAST, _MOST), max_size=least)
    mask = remove_small_holes(mask, max_size=least)
    mask = remove_small_objects(mask, max_size=int(mask.sum() * _SPECK_SHARE))
    if not mask.any():
        raise ReadError(
            "no tissue found, the whole slide is background; remove it, or use the whole slide with --tissue false",
            "no_tissue",
            path=slide.path,
        )
    return Tissue(mask, mpp)


def _saturation(pixels: np.ndarray) -> np.ndarray:
    """Saturation of RGB (H, W, 3), uint8 (H, W): 255 (largest - smallest) / largest, 0 where it is all but black."""
    largest, smallest = pixels.max(-1), pixels.min(-1)
    value = (largest - smallest) * np.float32(255) / np.maximum(largest, 1)
    return np.where(largest < _DARK, 0, np.rint(value)).astype(np.uint8)
