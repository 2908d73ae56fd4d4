"""Decoded volumes, with their axes in one canonical order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.image import own_range, refuse_not_finite

# Maximum cosine between two axes that should be orthogonal: 0.3 degrees, more than rounding of a header can cause.
SHEAR = 5e-3
_SMALLEST, _LONGEST = 1e-5, 10_000.0  # mm: of a voxel, and of all of them
_SLIGHTLY_OBLIQUE = 0.5  # degrees, not worth a note


@dataclass(frozen=True)
class Volume:
    """One volume in the canonical order of axes, independent of its acquisition plane.

    Slices run from the feet to the head, rows from the back to the front, columns from the patient's left to the right:
    NIfTI's RAS+ with the axes in the order S, A, R. An oblique volume keeps its own grid and has the closest of these
    orders; ``affine`` has the rest.

    Attributes:
        voxels: ``(C, D, H, W)``: channels, slices, rows, columns; the file's own numbers in native byte order, float32
            if they were scaled or had 64 bits.
        spacing: Millimeters between slices, rows and columns.
        affine: ``(4, 4)``, from voxel (d, h, w, 1) to millimeters to the right, the front and the head (RAS+).
        low: Least value; 0 for unsigned integers of 8 bits.
        high: Greatest value; 255 for unsigned integers of 8 bits.
        steps: Operations applied to the stored values, in words and in order.
        stored: Content of the file, such as ``NIfTI-1 int16`` or ``12-bit MONOCHROME2``.
        corrections: What the reader assumed or corrected because the file contradicts itself or its standard, in words;
            ``softfree check`` lists them. Empty for a sound file.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    low: float
    high: float
    steps: tuple[str, ...]
    stored: str
    corrections: tuple[str, ...] = ()

    def to_float32(self) -> np.ndarray:
        """Return the voxels ``(C, D, H, W)`` as float32."""
        return np.ascontiguousarray(self.voxels, dtype=np.float32)


def canonical(
    path: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    steps: tuple[str, ...],
    stored: str,
    *,
    corrections: tuple[str, ...] = (),
) -> Volume:
    """Bring one channel to the canonical order of axes.

    Args:
        path: Path of the file, for messages.
        voxels: ``(I, J, K)``, in any order of axes.
        affine: ``(4, 4)``, from (i, j, k, 1) to millimeters RAS+.
        steps: Operations so far.
        stored: Content of the file.
        corrections: What the reader assumed or corrected so far.

    Raises:
        ReadError: Axes that are not finite, have no length or are not orthogonal; values that are not finite.
    """
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    affine = np.asarray(affine, dtype=np.float64)
    _refuse_axes(path, affine, voxels.shape)
    if voxels.dtype.kind == "f" and voxels.dtype != np.float32:
        with np.errstate(over="ignore"):  # overflow is detected as not finite
            voxels = voxels.astype(np.float32)
    refuse_not_finite(path, voxels)
    to_ras = io_orientation(affine)
    turned = np.ascontiguousarray(apply_orientation(voxels, to_ras).transpose(2, 1, 0))[None]
    turned = turned.astype(turned.dtype.newbyteorder("="), copy=False)
    directed = (affine @ inv_ornt_aff(to_ras, voxels.shape))[:, [2, 1, 0, 3]]
    low, high, _ = own_range(turned[..., None], 8 * turned.dtype.itemsize)
    depth, height, width = (float(size) for size in voxel_sizes(directed))
    words = (*steps, *_turned_in_words(affine, directed))
    return Volume(turned, (depth, height, width), directed, low, high, words, stored, corrections)


def refuse_large_volume(path: Path, shape: tuple[int, ...], max_voxels: int) -> None:
    """Raise ReadError if the header declares more than ``max_voxels``."""
    if math.prod(shape) > max_voxels:
        raise ReadError(f"{_times(shape)} voxels, more than {max_voxels}; cut it or reduce it", "too_large", path=path)


def is_straight(affine: np.ndarray) -> bool:
    """Return whether the axes of an affine ``(4, 4)`` are orthogonal, up to the precision of a header."""
    return _shear(affine) <= SHEAR


def _shear(affine: np.ndarray) -> float:
    """Return the largest cosine between two axes."""
    from nibabel.affines import voxel_sizes

    axes = affine[:3, :3] / voxel_sizes(affine)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _refuse_axes(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    from nibabel.affines import voxel_sizes

    if not np.isfinite(affine).all():
        raise ReadError("the affine holds values that are not finite; repair the header", "not_finite", path=path)
    sizes = voxel_sizes(affine)
    if not (sizes > 0).all():
        raise ReadError(
            f"voxels of {_times(sizes)} mm; expected sizes above zero, repair the header", "corrupt", path=path
        )
    if sizes.min() < _SMALLEST or (sizes * shape).max() > _LONGEST:
        raise ReadError(
            f"{_times(shape)} voxels of {_times(sizes)} mm, which no body has; repair the sizes or their unit",
            path=path,
        )
    if not is_straight(affine):
        angle = np.degrees(np.arccos(min(1.0, _shear(affine))))
        raise ReadError(
            f"sheared: two axes meet at {angle:.1f} degrees instead of 90; resample it to a straight grid",
            "unsupported",
            path=path,
        )


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(str(number) if isinstance(number, int) else f"{number:g}" for number in numbers)


def _turned_in_words(affine: np.ndarray, directed: np.ndarray) -> tuple[str, ...]:
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import aff2axcodes

    codes = "".join(aff2axcodes(affine))
    words: tuple[str, ...] = () if codes == "SAR" else (f"axes {codes} turned to SAR",)
    cosines = np.diag(np.abs(directed[[2, 1, 0], :3]) / voxel_sizes(directed))
    angle = float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).max())
    if angle > _SLIGHTLY_OBLIQUE:
        words += (f"oblique by {angle:.1f} degrees: closest axes taken",)
    return words
