"""Features of a slide's tiles in HDF5: softfree's own layout, and those of CLAM, TRIDENT and STAMP.

::

    tool      features           coordinates                            attributes
    softfree  features (N, F)    coords_mm (N, 2), centres              of the file: softfree_features, complete, ...
    TRIDENT   features (N, F)    coords (N, 2), corners, level-0 pixels of coords: patch_size_level0, ...
    CLAM      features (N, F)    coords (N, 2), corners, level-0 pixels none
    STAMP     feats (N, F)       coords (N, 2), corners, micrometres    of the file: unit, tile_size_um, extractor

Each may have a leading axis of length 1. CLAM and TRIDENT do not store how large a pixel is (a magnification is no
resolution), so that their coordinates are known only together with the slide's micrometres per pixel. CLAM does not
store the side of a tile either: there the corner stands for the centre, which moves all tiles of a slide alike.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from softfree.data.readers.picture import in_one_line
from softfree.errors import ReadError
from softfree.files import replacing

LAYOUT = 1  # raised when the own layout changes


@dataclass(frozen=True)
class TileFeatures:
    """The tiles of one slide.

    Attributes:
        features: float32 (N, F), finite, N at least 1.
        coords_mm: float64 (N, 2), x and y of the tiles' centres in millimetres; None where they are not known.
        tool: what wrote the file: softfree, CLAM, TRIDENT or STAMP.
        encoder: name of the encoder, as far as the file says it.
        attributes: all attributes of an own file; empty for the others.
        corrections: what the reader assumed or corrected because the file contradicts itself or its standard, in words;
            ``softfree check`` lists them. Empty for a sound file.
    """

    features: np.ndarray
    coords_mm: np.ndarray | None
    tool: str
    encoder: str | None
    attributes: Mapping[str, Any]
    corrections: tuple[str, ...] = ()


def read_features(path: str | Path, *, mpp: float | None = None) -> TileFeatures:
    """Read a feature file of any of the four tools.

    Args:
        path: the file.
        mpp: micrometres per level-0 pixel of the slide, for CLAM and TRIDENT; the others store millimetres themselves.

    Raises:
        ReadError: status ``missing``, ``corrupt``, ``unsupported``, ``empty`` (no tile) or ``not_finite``.
    """
    path = Path(path)
    with _Opened(path) as file:
        found = _features(path, file)
        features = found.astype(np.float32)[()].reshape(found.shape[-2:])
        if not np.isfinite(features.sum(dtype=np.float64)):  # large bags have no room for a mask
            bad = int((~np.isfinite(features).all(axis=1)).sum())
            raise ReadError(
                f"{path}: features that are NaN or infinite in {bad} of {len(features)} tiles; extract the slide again",
                "not_finite",
            )
        tool = _tool(file)
        coords = _coords(path, file, tool, len(features), mpp)
        attributes = dict(file.attrs) if tool == "softfree" else {}
        return TileFeatures(features, coords, tool, _encoder(file, tool), attributes)


def read_header(path: str | Path) -> tuple[int, str | None]:
    """Read the number of features and the encoder's name, as far as the file says it; ReadError as above."""
    path = Path(path)
    with _Opened(path) as file:
        return int(_features(path, file).shape[-1]), _encoder(file, _tool(file))


def read_attributes(path: Path) -> dict[str, Any] | None:
    """Read the attributes of an own file that is whole; None for anything else."""
    try:
        with _Opened(path) as file:
            _features(path, file)
            return dict(file.attrs) if _tool(file) == "softfree" else None
    except ReadError:
        return None


def write_features(path: Path, features: np.ndarray, coords_mm: np.ndarray, attributes: Mapping[str, Any]) -> None:
    """Write an own file; under its name there is only ever a whole one.

    Args:
        path: the file.
        features: float16 or float32 (N, F).
        coords_mm: (N, 2), centres of the tiles.
        attributes: numbers and text.

    Raises:
        UserError: the system refuses, for instance on a full disk.
    """
    # Made in memory first: on a full disk, plain writing gives a plain reason.
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        file["features"] = features
        file["coords_mm"] = coords_mm.astype(np.float64)
        file.attrs.update({"softfree_features": LAYOUT, **attributes})
        file.attrs["complete"] = True
    with replacing(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


class _Opened:
    """An HDF5 file, whatever goes wrong with it turned into a ReadError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> h5py.File:
        if not self.path.is_file():
            raise ReadError(f"{self.path}: no such file; check the path and the folder it is relative to", "missing")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise ReadError(f"{self.path}: not readable as HDF5 ({in_one_line(error)}); extract it again") from error
        return self.file

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.file.close()
        if isinstance(error, OSError | KeyError | RuntimeError):
            raise ReadError(f"{self.path}: damaged feature file ({in_one_line(error)}); extract it again") from error


def _features(path: Path, file: h5py.File) -> h5py.Dataset:
    """Find the features, of a shape that is a bag of tiles."""
    found = file.get("feats" if _tool(file) == "STAMP" else "features")
    if not isinstance(found, h5py.Dataset) or found.dtype.kind != "f":
        names = ", ".join(list(file)[:5]) or "nothing"
        raise ReadError(
            f"{path}: no features of tiles: it holds {names}; expected the layout of softfree, CLAM, TRIDENT or STAMP",
            "unsupported",
        )
    if _tool(file) == "softfree" and not file.attrs.get("complete", False):
        raise ReadError(f"{path}: half-written features; run softfree features again")
    flat = found.ndim == 2 or (found.ndim == 3 and found.shape[0] == 1)
    if not flat or file.attrs.get("feat_type", "tile") != "tile":
        raise ReadError(
            f"{path}: features of shape {found.shape}, not of tiles but of a whole slide; expected (tiles, features)",
            "unsupported",
        )
    if 0 in found.shape:
        raise ReadError(f"{path}: a bag with no tile; leave it out, or lower --share", "empty")
    return found


def _tool(file: h5py.File) -> str:
    if "softfree_features" in file.attrs:
        return "softfree"
    if "feats" in file:
        return "STAMP"
    return "TRIDENT" if "coords" in file and "patch_size_level0" in file["coords"].attrs else "CLAM"


def _encoder(file: h5py.File, tool: str) -> str | None:
    name = file.attrs.get({"softfree": "encoder", "STAMP": "extractor"}.get(tool, ""))
    return None if name is None else str(name)


def _coords(path: Path, file: h5py.File, tool: str, tiles: int, mpp: float | None) -> np.ndarray | None:
    """Return the tiles' centres (N, 2) in millimetres, None where they are not known."""
    stored = file.get("coords_mm" if tool == "softfree" else "coords")
    if stored is None:
        return None
    coords = stored[()].reshape(stored.shape[-2:]).astype(np.float64)
    if coords.shape != (tiles, 2) or not np.isfinite(coords).all():
        raise ReadError(
            f"{path}: coordinates of shape {coords.shape} for {tiles} tiles, or not finite; extract it again"
        )
    if tool == "softfree":
        return coords
    if tool == "STAMP":
        side = file.attrs.get("tile_size_um")
        if side is None and file.attrs.get("unit") == "um":
            side = file.attrs.get("tile_size", 0)
        if side is not None:
            return (coords + float(side) / 2) / 1000
    half = float(stored.attrs.get("patch_size_level0", 0)) / 2
    return None if mpp is None else (coords + half) * mpp / 1000
