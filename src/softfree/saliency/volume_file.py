"""The map of a volume as NIfTI, on the voxels of the input."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import io_orientation, ornt_transform

from softfree.data.modalities.volume import VolumePreprocessing
from softfree_runtime.core.files import write_atomically
from softfree_runtime.readers.nifti import read_affine
from softfree_runtime.readers.nifti_file import is_nifti_file
from softfree_runtime.readers.volume import Volume


def on_voxels(
    values: np.ndarray, preprocessing: VolumePreprocessing, volume: Volume, patch: tuple[int, int, int]
) -> np.ndarray:
    """Bring a map (d, h, w) from the grid of tokens to a volume's voxels, float32 (D, H, W), 0 beyond what was seen."""
    for axis, side in enumerate(patch):
        values = values.repeat(side, axis)
    depth, height, width = preprocessing.shape
    return preprocessing.to_source_grid(values[:depth, :height, :width], volume)


def write_nifti(path: Path, voxels: np.ndarray, volume: Volume, source: str, description: str) -> None:
    """Write a map so that it lies over its source voxel by voxel.

    Args:
        path: Ends in .nii.gz.
        voxels: (D, H, W) on the grid of ``volume``.
        volume: As it was read.
        source: The file that it was read from: the axes of a NIfTI file are taken over, others stay as RAS+.
        description: Of the map, cut to the 79 letters that the header has room for.
    """
    image = Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), volume.affine[:, [2, 1, 0, 3]])
    if is_nifti_file(Path(source)):
        wanted = io_orientation(read_affine(Path(source)))
        image = image.as_reoriented(ornt_transform(io_orientation(image.affine), wanted))
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    write_atomically(path, gzip.compress(image.to_bytes(), mtime=0))
