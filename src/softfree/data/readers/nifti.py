"""NIfTI-1 and NIfTI-2 volumes, compressed or not, in either byte order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.openers import ImageOpener

from softfree.data.readers.picture import chosen_frame
from softfree.data.readers.quiet import quiet
from softfree.data.readers.volume import Volume, canonical, refuse_large_volume
from softfree.errors import ReadError

ENDINGS = (".nii", ".nii.gz")
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


def read_nifti(path: Path, frame: int | None = None, *, max_voxels: int = 1 << 30) -> Volume:
    """Read one volume; see :class:`Volume` for the order of its axes.

    The place of the voxels comes from the sform, else from the qform. A file with neither is taken as nibabel takes it:
    first axis to the left, second to the front, third to the head. That is said in the volume's steps.

    Args:
        path: a file that ends in .nii or .nii.gz.
        frame: which volume of a 4D file, counted from 0; a 4D file without it is refused.
        max_voxels: larger volumes are refused from their header.

    Raises:
        ReadError: with status ``corrupt``, ``unsupported``, ``too_large`` or ``not_finite``.
    """
    with quiet():
        try:
            image = nibabel.load(path, mmap=False)  # a file that is cut short must not end the process
            if not isinstance(image, Nifti1Image):  # Nifti2Image is one
                raise ReadError(f"{path}: {type(image).__name__}; expected a NIfTI volume, convert it", "unsupported")
            return _volume(path, image, frame, max_voxels)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # nibabel and zlib raise nearly anything on damaged files
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ReadError(f"{path}: damaged NIfTI, cannot be read ({reason})", "corrupt") from error


def _volume(path: Path, image: Nifti1Image, frame: int | None, max_voxels: int) -> Volume:
    with ImageOpener(str(path)) as file:
        header = type(image.header).from_fileobj(file, check=False)  # nibabel's check turns sizes of 0 into 1
    dtype = image.header.get_data_dtype()
    if dtype.fields or dtype.kind not in "iuf":
        kind = "colour (RGB)" if dtype.fields else f"{dtype} numbers"
        raise ReadError(f"{path}: NIfTI of {kind} is not supported; save each channel as a volume", "unsupported")
    where, steps = _chosen(path, image.shape, frame)
    refuse_large_volume(path, image.shape[:3], max_voxels)
    affine, placed = _placed(path, image, header)
    stored: Any = image.dataobj
    voxels = np.asanyarray(stored[where])
    slope, intercept = stored.slope, stored.inter
    if (slope, intercept) != (1.0, 0.0):
        steps += (f"scaled: slope {slope:g}, intercept {intercept:g}",)
    version = 2 if isinstance(image, nibabel.Nifti2Image) else 1
    return canonical(path, voxels, affine, (*steps, *placed), f"NIfTI-{version} {dtype.newbyteorder('=')}")


def _chosen(path: Path, shape: tuple[int, ...], frame: int | None) -> tuple[tuple[slice | int, ...], tuple[str, ...]]:
    """Return the index of the wanted volume and the step to be recorded."""
    size = " x ".join(map(str, shape))
    count = shape[3] if len(shape) > 3 else 1
    if len(shape) < 3 or min(shape) < 1 or any(more > 1 for more in shape[4:]):
        raise ReadError(f"{path}: NIfTI of {size} values; expected a volume of three dimensions", "unsupported")
    if count > 1 and frame is None:
        raise ReadError(
            f"{path}: a 4D file of {count} frames where one volume was expected; "
            f"choose one, 0 to {count - 1}, in the table's column frame",
            "unsupported",
        )
    number, steps = chosen_frame(path, frame, count)
    return (slice(None),) * 3 + (number,) * (len(shape) > 3) + (0,) * (len(shape) - 4), steps


def _placed(path: Path, image: Nifti1Image, header: Nifti1Header) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine in millimetres and what is to be said of it."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    if sform <= 0 and not (np.isfinite(sizes) & (sizes > 0)).all():
        listed = " x ".join(f"{size:g}" for size in sizes)
        raise ReadError(f"{path}: voxels of {listed} mm; expected sizes above zero, repair the header", "corrupt")
    affine = np.array(image.affine, dtype=np.float64)
    steps: tuple[str, ...] = ()
    if sform <= 0 and qform <= 0:
        steps += ("no orientation in the file (sform and qform codes 0): axes taken as LAS",)
    elif sform > 0 and not np.allclose(voxel_sizes(affine), sizes, rtol=0.01):
        steps += ("voxel sizes from the sform, which differ from pixdim",)
    unit = header.get_xyzt_units()[0]
    if unit in _MILLIMETRES:
        affine[:3] *= _MILLIMETRES[unit]
        steps += (f"{unit}s turned into millimetres",)
    return affine, steps
