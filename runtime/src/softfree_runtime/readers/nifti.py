"""NIfTI-1 and NIfTI-2 volumes, compressed or not, single files or pairs, in either byte order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.volumeutils import apply_read_scaling

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.image import chosen_frame, in_one_line
from softfree_runtime.readers.nifti_affine import affine_of
from softfree_runtime.readers.nifti_file import header_and_voxels, read_header, read_voxels, unpacked
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.volume import Volume, canonical, refuse_large_volume


def read_nifti(path: Path, frame: int | None = None, *, max_voxels: int = 1 << 30) -> Volume:
    """Read one volume; see :class:`Volume` for the order of its axes.

    Voxels are placed by the sform, else by the qform. A file with neither is read as in nibabel: first axis to the
    left, second to the front, third to the head, which is noted in the corrections. A compressed file is read to its
    end to verify its checksum.

    Args:
        path: A NIfTI file of any name; for a pair the .hdr or the .img.
        frame: Which volume of a 4D file, counted from 0; a 4D file without it is refused.
        max_voxels: Larger volumes are refused by their header.

    Raises:
        ReadError: With status ``missing`` (half of a pair), ``corrupt``, ``unsupported``, ``too_large`` or
            ``not_finite``.
    """
    path = Path(path)
    with quiet():
        try:
            return _volume(path, frame, max_voxels)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # gzip and zlib raise almost any exception on damaged files
            raise ReadError(f"damaged NIfTI, cannot be read ({in_one_line(error, path)})", "corrupt", path) from error


def read_affine(path: Path) -> np.ndarray:
    """Return the affine ``(4, 4)`` from a stored voxel (i, j, k, 1) to millimeters RAS+; ReadError as above."""
    with unpacked(header_and_voxels(path)[0]) as stream:
        return affine_of(path, read_header(path, stream)[0])[0]


def _volume(path: Path, frame: int | None, max_voxels: int) -> Volume:
    header_file, voxels_file = header_and_voxels(path)
    with unpacked(header_file) as stream:
        header, header_corrections = read_header(path, stream)
        dtype, type_corrections = _number_type(path, header)
        shape, shape_corrections = _shape(path, header)
        number, count, steps = _frame(path, shape, frame)
        shape = shape[:3]
        refuse_large_volume(path, shape, max_voxels)
        affine, placement, placement_corrections = affine_of(path, header)
        scale, scale_corrections = _scale(path, header)
        if voxels_file == header_file:
            voxels, voxel_corrections = read_voxels(path, stream, header, shape, number, count, single=True)
        else:
            with unpacked(voxels_file) as other:
                voxels, voxel_corrections = read_voxels(path, other, header, shape, number, count, single=False)
    if scale != (1.0, 0.0):
        voxels = apply_read_scaling(voxels, *map(np.float64, scale))
        steps += ("scaled: slope {:g}, intercept {:g}".format(*scale),)
    version = 2 if isinstance(header, Nifti2Header) else 1
    others = (*header_corrections, *type_corrections, *shape_corrections, *voxel_corrections, *scale_corrections)
    return canonical(
        path,
        voxels,
        affine,
        (*others, *steps, *placement),
        f"NIfTI-{version} {dtype.newbyteorder('=')}",
        corrections=(*others, *placement_corrections),
    )


def _number_type(path: Path, header: Nifti1Header) -> tuple[np.dtype, tuple[str, ...]]:
    """Return the type of the stored numbers, and what was corrected in the header."""
    try:
        dtype = header.get_data_dtype()
        if not dtype.itemsize:
            raise ValueError
    except Exception:  # nibabel raises its own exceptions, and KeyError
        raise ReadError(
            f"NIfTI of datatype {int(header['datatype'])}, which does not hold numbers", "unsupported", path=path
        ) from None
    if dtype.fields or dtype.kind not in "iuf":
        kind = "color (RGB)" if dtype.fields else f"{dtype} numbers"
        raise ReadError(f"NIfTI of {kind} is not supported; save each channel as a volume", "unsupported", path=path)
    if header["bitpix"] == 8 * dtype.itemsize:
        return dtype, ()
    return dtype, ("bitpix contradicts the datatype, which is used",)


def _shape(path: Path, header: Nifti1Header) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the stored shape, and what was corrected."""
    stored = tuple(int(side) for side in header["dim"][1 : header["dim"][0] + 1])
    shape = (*stored[:3], *(side or 1 for side in stored[3:]))
    if len(shape) < 3 or min(shape) < 1 or any(side > 1 for side in shape[4:]):
        size = " x ".join(map(str, stored))
        raise ReadError(f"NIfTI of {size} values; expected a volume of three dimensions", "unsupported", path=path)
    return shape, () if shape == stored else ("a dimension of 0 beyond the third: taken as 1",)


def _frame(path: Path, shape: tuple[int, ...], frame: int | None) -> tuple[int, int, tuple[str, ...]]:
    """Return the number of the volume, their count, and the step to record."""
    count = shape[3] if len(shape) > 3 else 1
    if count > 1 and frame is None:
        raise ReadError(
            f"a 4D file of {count} frames; expected one volume; "
            f"choose one, 0 to {count - 1}, in the table's column frame",
            "unsupported",
            path=path,
        )
    number, steps = chosen_frame(path, frame, count)
    return number, count, steps


def _scale(path: Path, header: Nifti1Header) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Return slope and intercept, and what was corrected; a slope of 0 means none, by the standard."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:
        ignored = intercept != 0 and math.isfinite(intercept)
        return (1.0, 0.0), ("scl_inter without scl_slope: values taken as stored",) if ignored else ()
    if not math.isfinite(slope):
        return (1.0, 0.0), ("scl_slope is not finite: values taken as stored",)
    if not math.isfinite(intercept):
        raise ReadError("scl_inter is not finite, so its values are unknown; repair the header", path=path)
    return (slope, intercept), ()
