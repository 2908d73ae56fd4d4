"""Features of a slide's tiles in HDF5: softfree's own layout, and those of CLAM, TRIDENT and STAMP.

::

    tool      features           coordinates                            attributes
    softfree  features (N, F)    coords_mm (N, 2), centers              of the file: softfree_features, complete, ...
    TRIDENT   features (N, F)    coords (N, 2), corners, level-0 pixels of coords: patch_size_level0, ...
    CLAM      features (N, F)    coords (N, 2), corners, level-0 pixels none
    STAMP     feats (N, F)       coords (N, 2), corners, micrometers    of the file: unit, tile_size_um, extractor

Each may have a leading axis of length 1, and a unit (mm, um or px) as an attribute of the file or the coordinates,
which then applies. CLAM and TRIDENT do not store the size of a pixel (a magnification is no
resolution), so that their coordinates are known only together with the slide's micrometers per pixel. CLAM does not
store the side of a tile either: there the corner stands for the center, which moves all tiles of a slide alike.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from softfree.data.modalities.feature_coordinates import centers_mm
from softfree.data.modalities.hdf5 import OpenedHDF5, plain, refuse_unwritten, text
from softfree_runtime.core.errors import ReadError
from softfree_runtime.core.files import replacing

LAYOUT = 1  # increased when softfree's layout changes
_NAMES = ("features", "feats", "coords", "coords_mm")


@dataclass(frozen=True)
class TileFeatures:
    """The tiles of one slide.

    Attributes:
        features: float32 (N, F), finite, N at least 1.
        coords_mm: float64 (N, 2), x and y of the tiles' centers in millimeters; None if unknown.
        tool: Tool that wrote the file: softfree, CLAM, TRIDENT or STAMP.
        encoder: Name of the encoder, if the file stores it.
        attributes: All attributes of a file of softfree; empty for others.
        corrections: What the reader assumed or corrected because the file contradicts itself or its standard, in words;
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
        path: The file.
        mpp: Micrometers per level-0 pixel of the slide, for CLAM and TRIDENT; the others store millimeters themselves.

    Raises:
        ReadError: Status ``missing``, ``corrupt``, ``unsupported``, ``empty`` (no tile) or ``not_finite``.
    """
    path = Path(path)
    with OpenedHDF5(path) as file:
        stored = _features(path, file)
        refuse_unwritten(path, stored)
        features = stored.astype(np.float32)[()].reshape(stored.shape[-2:])
        with np.errstate(invalid="ignore"):
            total = features.sum(dtype=np.float64)
        if not np.isfinite(total):  # a mask of a large bag may not fit in memory
            bad = int((~np.isfinite(features).all(axis=1)).sum())
            raise ReadError(
                f"features that are NaN or infinite in {bad} of {len(features)} tiles; extract the slide again",
                "not_finite",
                path=path,
            )
        tool = _tool(file)
        coords, corrections = centers_mm(path, file, tool, len(features), mpp)
        attributes = _attributes(file) if tool == "softfree" else {}
        return TileFeatures(features, coords, tool, _encoder(file, tool), attributes, corrections)


def read_header(path: str | Path) -> tuple[int, str | None]:
    """Read the number of features and the encoder's name, if the file stores it; ReadError as above."""
    path = Path(path)
    with OpenedHDF5(path) as file:
        return int(_features(path, file).shape[-1]), _encoder(file, _tool(file))


def read_attributes(path: Path) -> dict[str, Any] | None:
    """Read the attributes of a complete file of softfree; None for anything else."""
    try:
        with OpenedHDF5(path) as file:
            _features(path, file)
            return _attributes(file) if _tool(file) == "softfree" else None
    except ReadError:
        return None


def write_features(path: Path, features: np.ndarray, coords_mm: np.ndarray, attributes: Mapping[str, Any]) -> None:
    """Write a feature file atomically.

    Args:
        path: The file.
        features: float16 or float32 (N, F).
        coords_mm: (N, 2), centers of the tiles.
        attributes: Numbers and text.

    Raises:
        UserError: The file cannot be written, for example because the disk is full.
    """
    # Created in memory first: on a full disk, plain writing raises a clear error.
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        file["features"] = features
        file["coords_mm"] = coords_mm.astype(np.float64)
        file.attrs.update({"softfree_features": LAYOUT, **attributes})
        file.attrs["complete"] = True
    with replacing(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


def _features(path: Path, file: h5py.File) -> h5py.Dataset:
    """Return the dataset of features after checking its shape."""
    tool = _tool(file)
    name = "feats" if tool == "STAMP" else "features"
    if name not in file or not isinstance(file[name], h5py.Dataset):
        names = (
            ", ".join(name for name in _NAMES if name in file) or "nothing of their names"
        )  # others may be patients'
        raise ReadError(
            f"no features of tiles: it holds {names}; expected the layout of softfree, CLAM, TRIDENT or STAMP",
            "unsupported",
            path=path,
        )
    features = file[name]
    if features.dtype.kind != "f":
        raise ReadError("features that are not floating-point numbers; extract it again", "unsupported", path=path)
    if tool == "softfree":
        _refuse_own(path, file)
    if 0 in features.shape:
        raise ReadError("a bag without tiles; remove it, or lower --share", "empty", path=path)
    if _is_of_a_slide(file, features):
        raise ReadError(
            "one vector for the whole slide (or patient), not features of its tiles; name the file of the"
            " tiles' features",
            "unsupported",
            path=path,
        )
    if features.ndim != 2 and not (features.ndim == 3 and features.shape[0] == 1):
        raise ReadError(f"features of shape {features.shape}; expected (tiles, features)", "unsupported", path=path)
    return features


def _refuse_own(path: Path, file: h5py.File) -> None:
    if not file.attrs.get("complete", False):
        raise ReadError("half-written features; run softfree features again", path=path)
    if int(file.attrs["softfree_features"]) > LAYOUT:
        raise ReadError("features of a newer softfree; update softfree", "unsupported", path=path)


def _is_of_a_slide(file: h5py.File, features: h5py.Dataset) -> bool:
    """Return whether there is one vector for all tiles, as slide encoders write it, with or without coordinates."""
    if (text(file.attrs.get("feat_type")) or "tile") != "tile" or features.ndim == 1:
        return True
    if _tool(file) == "softfree" or math.prod(features.shape[:-1]) > 1:
        return False
    coords = file.get("coords")
    return coords is None or (isinstance(coords, h5py.Dataset) and coords.ndim > 1 and coords.shape[-2] > 1)


def _tool(file: h5py.File) -> str:
    if "softfree_features" in file.attrs:
        return "softfree"
    if "feats" in file:
        return "STAMP"
    return "TRIDENT" if "coords" in file and "patch_size_level0" in file["coords"].attrs else "CLAM"


def _encoder(file: h5py.File, tool: str) -> str | None:
    name = text(file.attrs.get({"softfree": "encoder", "STAMP": "extractor"}.get(tool, "")))
    return None if name is None else name[:200]


def _attributes(file: h5py.File) -> dict[str, Any]:
    return {name: plain(value) for name, value in file.attrs.items()}
