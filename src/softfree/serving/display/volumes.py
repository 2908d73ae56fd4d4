"""A volume as a browser shows it: slices in three directions, and NIfTI files for NiiVue."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from softfree.serving.display.images import Window, to_image
from softfree.serving.display.map_file import StoredMap
from softfree_runtime.readers.volume import Volume

AXES = ("axial", "coronal", "sagittal")
"""Directions of slices, by the axis (D, H, W) along which they are counted: from the feet, the back and the left."""
_LARGEST = 1 << 24  # voxels that are sent to the browser; more are halved, which the page says
_SAMPLE = 1 << 20  # voxels from which the window is taken


@dataclass(frozen=True)
class ShownVolume:
    """A decoded volume on its way to the screen; of several channels the chosen one."""

    volume: Volume
    channel: int = 0

    @property
    def voxels(self) -> np.ndarray:
        """(D, H, W)."""
        return np.asarray(self.volume.voxels[self.channel])

    @cached_property
    def window(self) -> Window:
        """A window from the 0.5th to the 99.5th percentile."""
        flat = self.voxels.reshape(-1)
        values = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        return Window(max(float(high - low), 1e-6), float(high + low) / 2)

    @property
    def stride(self) -> int:
        """Every how many voxels one is sent to the browser."""
        stride = 1
        while self.voxels.size / stride**3 > _LARGEST:
            stride += 1
        return stride

    def facts(self) -> dict[str, Any]:
        """Describe it for the page."""
        volume, window = self.volume, self.window
        depth, height, width = self.voxels.shape
        return {
            "kind": "volume",
            "slices": dict(zip(AXES, (depth, height, width), strict=True)),
            "spacing": list(volume.spacing),
            "stored": volume.stored,
            "steps": list(volume.steps),
            "channels": len(volume.voxels),
            "gray": True,
            "reduced": self.stride,
            "window": {
                "low": window.low,
                "high": window.high,
                "least": min(float(self.voxels.min()), window.low),
                "greatest": max(float(self.voxels.max()), window.high),
                "whole": self.voxels.dtype.kind in "iu",
            },
        }

    def drawn(self, axis: int, number: int, window: Window | None = None, side: int | None = None) -> Image.Image:
        """Draw a slice with square pixels, as radiologists look at it (see :func:`turned`).

        Raises:
            IndexError: There is no such slice.
        """
        if not 0 <= number < self.voxels.shape[axis]:
            raise IndexError(f"slice {number}: expected 0 to {self.voxels.shape[axis] - 1}")
        shown = window or self.window
        values = turned(np.take(self.voxels, number, axis=axis)).astype(np.float32)
        unit = np.clip((values - shown.low) / max(shown.width, 1e-6), 0, 1)
        return to_image(unit).resize(self.size(axis, side), Image.Resampling.BILINEAR)

    def size(self, axis: int, side: int | None = None) -> tuple[int, int]:
        """(width, height) of a drawn slice, whose pixels are as long as the finer side of its voxels."""
        others = [other for other in range(3) if other != axis]
        spacing = [self.volume.spacing[other] for other in others]
        height, width = (
            max(1, round(self.voxels.shape[other] * step / min(spacing)))
            for other, step in zip(others, spacing, strict=True)
        )
        factor = 1.0 if side is None else min(1.0, side / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def layer(self, map_: StoredMap, axis: int, number: int, side: int | None = None) -> Image.Image:
        """Color the map on a slice, of the size of the drawn slice."""
        width, height = self.size(axis, side)
        part = map_.slice(axis, number)
        rows, columns = part.grid.shape
        colors = part.layer(0, 0, rows, columns, height, width, map_.limit)
        return Image.fromarray(np.ascontiguousarray(turned(colors)))

    def nifti(self) -> bytes:
        """Encode the voxels as ``.nii.gz``, every :attr:`stride`-th in each direction."""
        stride = self.stride
        voxels = self.voxels[::stride, ::stride, ::stride]
        affine = np.asarray(self.volume.affine, dtype=np.float64) @ np.diag([stride, stride, stride, 1.0])
        return nifti_bytes(voxels, affine)


def turned(slice_: np.ndarray) -> np.ndarray:
    """Turn a slice to how it is read: the front or the head at the top, the patient's right or front on the left."""
    return slice_[::-1, ::-1]


def map_nifti(map_: StoredMap) -> bytes:
    """Encode a map on its own grid of tokens as ``.nii.gz``; a viewer places it by its affine."""
    assert map_.grid.affine is not None
    step, start = np.array(map_.grid.step), np.array(map_.grid.start)
    to_voxels = np.diag([*step, 1.0])
    to_voxels[:3, 3] = start + step / 2 - 0.5  # the center of a token; voxel i has its center at i in an affine
    return nifti_bytes(map_.values.astype(np.float32), np.asarray(map_.grid.affine) @ to_voxels)


def nifti_bytes(voxels: np.ndarray, affine: np.ndarray) -> bytes:
    """Encode (D, H, W) with the affine of its axes; what NIfTI has no type for becomes float32."""
    from nibabel.nifti1 import Nifti1Image

    known = voxels.dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32)
    stored = voxels if known else voxels.astype(np.float32)
    # NIfTI's first axis varies fastest: the columns.
    image = Nifti1Image(np.ascontiguousarray(stored.transpose(2, 1, 0)), affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
