"""Positions of the tiles of a feature file: centers in millimeters from coordinates in any unit."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from softfree.data.modalities.hdf5 import lengths, text
from softfree_runtime.core.errors import ReadError

Words = tuple[str, ...]

_MILLIMETERS = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("um", "μm", "micron", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
}
_PIXELS = ("px", "pixel", "pix")
_HISTORIC_PX, _HISTORIC_UM = 224, 256.0  # STAMP before it stored its unit
_LONGEST = 500.0  # mm; the largest slides have 200


def centers_mm(
    path: Path, file: h5py.File, tool: str, tiles: int, mpp: float | None
) -> tuple[np.ndarray | None, Words]:
    """Return the tiles' centers (N, 2) in millimeters, None if unknown, and what was assumed.

    Args:
        path: Path of the file, for messages.
        file: Open file.
        tool: Tool that wrote it: softfree, CLAM, TRIDENT or STAMP.
        tiles: Number of tiles, N.
        mpp: Micrometers per level-0 pixel of the slide, or None.

    Raises:
        ReadError: Coordinates that are not numbers, do not match the tiles, or are implausible for a slide.
    """
    stored = file.get("coords_mm" if tool == "softfree" else "coords")
    if stored is None:
        return None, ()
    coords = _numbers(path, stored, tiles)
    millimeters, words = (coords, ()) if tool == "softfree" else _in_mm(path, file, stored.attrs, tool, coords, mpp)
    if millimeters is not None and np.abs(millimeters).max() > _LONGEST:
        raise ReadError(
            f"coordinates up to {np.abs(millimeters).max():.3g} mm, more than any slide; check their unit or"
            " the mpp of the table",
            path=path,
        )
    several = len(np.unique(np.ascontiguousarray(coords).view(np.complex128))) < tiles
    return millimeters, (*words, "several tiles at one position") if several else words


def _numbers(path: Path, stored: Any, tiles: int) -> np.ndarray:
    """Return the stored coordinates as float64 (N, 2)."""
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "iuf":
        kind = "a group" if isinstance(stored, h5py.Group) else "no numbers"
        raise ReadError(f"coordinates that are {kind}; expected numbers of shape (tiles, 2)", "unsupported", path=path)
    leading = stored.ndim == 3 and stored.shape[0] == 1
    if stored.shape[leading:] != (tiles, 2):
        raise ReadError(
            f"coordinates of shape {stored.shape} for {tiles} tiles; expected a pair per tile; extract again", path=path
        )
    coords = stored[()].reshape(tiles, 2).astype(np.float64)
    if not np.isfinite(coords).all():
        raise ReadError("coordinates that are NaN or infinite; extract it again", path=path)
    return coords


def _in_mm(
    path: Path, file: h5py.File, attributes: Any, tool: str, coords: np.ndarray, mpp: float | None
) -> tuple[np.ndarray | None, Words]:
    """Return the centers of tiles whose corners are ``coords``; without the side of a tile they are the corners."""

    def attribute(*names: str) -> Any:
        values = (holder.get(name) for name in names for holder in (attributes, file.attrs))
        return next((value for value in values if value is not None), None)

    unit = _unit(path, text(attribute("unit", "units")))
    side = lengths(path, "tile_size", attribute("tile_size"))
    side_um = lengths(path, "tile_size_um", attribute("tile_size_um"))
    if unit is None and side_um is not None:
        unit = 1e-3
    if unit:
        mm = np.zeros(2) if side is None else side * unit
        return coords * unit + (mm if side_um is None else side_um / 1000) / 2, ()
    if tool == "STAMP" and side_um is None and _is_historic(side, coords):
        corners = coords * (_HISTORIC_UM / _HISTORIC_PX)
        word = "coordinates in steps of 224 without a unit: taken as the 256 um of early STAMP"
        return (corners + _HISTORIC_UM / 2) / 1000, (word,)
    if mpp is None:
        return None, ()
    side_px = lengths(path, "patch_size_level0", attribute("patch_size_level0"))
    if side_um is not None:
        side_px = side_um / mpp
    return (coords + (0 if side_px is None else side_px / 2)) * mpp / 1000, ()


def _unit(path: Path, name: str | None) -> float | None:
    """Return the millimeters of a unit, 0 for pixels, None if there is none."""
    if not name:
        return None
    word = unicodedata.normalize("NFKC", name).strip().casefold()
    word = word if word in _MILLIMETERS else word.removesuffix("s")
    if word in _PIXELS:
        return 0.0
    if word not in _MILLIMETERS:
        raise ReadError("coordinates in an unknown unit; expected mm, um or px", "unsupported", path=path)
    return _MILLIMETERS[word]


def _is_historic(side: np.ndarray | None, coords: np.ndarray) -> bool:
    """Return whether tiles, or else the smallest step between them, have 224 units, which is STAMP's rule."""
    if side is not None:
        return bool((side.round() == _HISTORIC_PX).all())
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in coords.T])
    return len(steps) > 0 and round(steps.min()) == _HISTORIC_PX
