"""Affine of a NIfTI file, from the sform, the qform, or neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import io_orientation
from nibabel.quaternions import quat2mat

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.volume import is_straight

_UNITS = {1: ("meter", 1000.0), 2: ("millimeter", 1.0), 3: ("micron", 0.001)}  # codes of the lower bits of xyzt_units
_LARGEST = 100.0  # mm; larger voxels indicate a wrong unit
_NEAR = 1e-3  # rounding tolerance of a unit quaternion or a factor of 1
_FAR = 2.0  # degrees between the axes of sform and qform that are noted

Words = tuple[str, ...]


def affine_of(path: Path, header: Nifti1Header) -> tuple[np.ndarray, Words, Words]:
    """Return the affine ``(4, 4)`` from a voxel to millimeters RAS+, the steps, and the corrections.

    The sform is used, else the qform; an unusable one is skipped if the other is usable.

    Raises:
        ReadError: Neither is usable, or they exchange left and right.
    """
    affine, corrections = _chosen(path, header)
    steps: Words = ()
    unit, millimeters = _UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if int(header["xyzt_units"]) & 7 > 3:
        corrections += ("unknown unit of length: taken as millimeters",)
    if millimeters != 1:
        affine[:3] *= millimeters
        steps += (f"{unit}s converted to millimeters",)
        if (sizes := voxel_sizes(affine)).max() > _LARGEST:
            raise ReadError(f"voxels of {_listed(sizes)} mm by their unit, the {unit}; repair xyzt_units", path=path)
    return affine, (*corrections, *steps), corrections


def _chosen(path: Path, header: Nifti1Header) -> tuple[np.ndarray, Words]:
    sform = _sform(header) if header["sform_code"] > 0 else None
    coded = header["qform_code"] > 0
    qform, words = _qform(header) if coded else (None, ())
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    if sform is None and not coded:
        _refuse_sizes(path, sizes)
        return _without(header, sizes), ("no orientation in the file (sform and qform codes 0): axes taken as LAS",)
    if sform is not None and _usable(sform):
        if qform is not None and _usable(qform):
            _refuse_mirrored(path, sform, qform)
            if not is_straight(sform):
                return qform, (*words, "the sform is sheared: placed by the qform")
            return sform, _differences(header, sform, qform, sizes)
        broken = ("the qform cannot be used: placed by the sform",) if coded else ()
        return sform, (*broken, *_other_sizes(sform, sizes))
    if qform is not None and _usable(qform):
        return qform, (*words, "the sform cannot be used: placed by the qform") if sform is not None else words
    if sform is not None:  # the caller reports what is wrong with it
        return sform, ()
    _refuse_sizes(path, sizes)
    raise ReadError("damaged NIfTI: the qform is not a rotation and there is no sform; repair the header", path=path)


def _sform(header: Nifti1Header) -> np.ndarray:
    return np.vstack([*(header[f"srow_{axis}"] for axis in "xyz"), [0, 0, 0, 1]]).astype(np.float64)


def _qform(header: Nifti1Header) -> tuple[np.ndarray | None, Words]:
    """Return the affine of the quaternion, None if it is not a rotation, and the corrections."""
    words: Words = ()
    vector = np.array([header[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    factor, *sizes = header["pixdim"][:4].astype(np.float64)
    if not length <= 1 + _NEAR or factor < -1 - _NEAR or -1 + _NEAR < factor < 0:
        return None, ()
    if not min(abs(factor - valid) for valid in (-1, 0, 1)) <= _NEAR:
        words += ("pixdim[0] is neither 1 nor -1: taken as 1",)
    if min(sizes) < 0:
        words += ("negative voxel sizes: taken as positive",)
    real = np.sqrt(max(0.0, 1 - length**2))
    rotation = quat2mat([real, *(vector / max(1.0, length))])
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.abs(sizes) * (1, 1, -1 if factor < 0 else 1)
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine, words


def _without(header: Nifti1Header, sizes: np.ndarray) -> np.ndarray:
    """Return the convention for files without orientation: first axis to the left, origin in the center."""
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((header["dim"][1:4].astype(np.float64) - 1) / 2)
    return affine


def _usable(affine: np.ndarray) -> bool:
    """Return whether an affine is finite and invertible."""
    if not np.isfinite(affine).all() or not (voxel_sizes(affine) > 0).all():
        return False
    return abs(np.linalg.det(affine[:3, :3] / voxel_sizes(affine))) > _NEAR


def _refuse_mirrored(path: Path, sform: np.ndarray, qform: np.ndarray) -> None:
    if np.linalg.det(sform) * np.linalg.det(qform) < 0:
        raise ReadError(
            "sform and qform mirror each other, so left and right may be exchanged; find out which one is"
            " correct and set the code of the other to 0",
            path=path,
        )


def _differences(header: Nifti1Header, sform: np.ndarray, qform: np.ndarray, sizes: np.ndarray) -> Words:
    """Describe differences of sform and qform; in different spaces only the order of axes must agree."""
    first, second = (affine[:3, :3] / voxel_sizes(affine) for affine in (sform, qform))
    angle = np.degrees(np.arccos(np.clip((first * second).sum(axis=0), -1, 1))).max()
    same_space = header["sform_code"] == header["qform_code"]
    other_axes = not np.array_equal(io_orientation(sform), io_orientation(qform))
    rotated = angle > _FAR and (same_space or other_axes)
    words = ("sform and qform differ in the directions of the axes: placed by the sform",) if rotated else ()
    return (*words, *_other_sizes(sform, sizes))


def _other_sizes(sform: np.ndarray, sizes: np.ndarray) -> Words:
    near = np.allclose(voxel_sizes(sform), sizes, rtol=0.01)
    return () if near else ("voxel sizes from the sform, which differ from pixdim",)


def _refuse_sizes(path: Path, sizes: np.ndarray) -> None:
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ReadError(f"voxels of {_listed(sizes)} mm; expected sizes above zero, repair the header", path=path)


def _listed(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
