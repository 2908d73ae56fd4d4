"""A volume to explain, and its map as NIfTI on the voxels of the input."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import io_orientation, ornt_transform
from torch import Tensor

from softfree.data.modalities.volume import VolumePreprocessing
from softfree.saliency.captions import MapText
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.maps import Map
from softfree.saliency.regions import Region
from softfree.saliency.rendering import RenderedMap
from softfree.saliency.samples.opener import THUMBNAIL, SampleOpener, draw
from softfree_runtime.core.files import write_atomically
from softfree_runtime.readers.nifti import read_affine
from softfree_runtime.readers.nifti_file import is_nifti_file
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.channel_rules import ChannelRules
from softfree_runtime.sources.sample_source import SampleSource, file_of
from softfree_runtime.sources.volume_files import read_volume


@dataclass(frozen=True)
class VolumeSample:
    """A volume, with the sides of a patch in voxels."""

    source: str
    volume: Volume
    preprocessing: VolumePreprocessing
    tensor: Tensor
    token_grid: TokenGrid
    patch: tuple[int, int, int]

    @classmethod
    def read(cls, opener: SampleOpener, source: SampleSource, frame: int | None) -> VolumeSample:
        """Read and prepare a volume."""
        preprocessing, patch, path = opener.preprocessing, opener.patch, file_of(source).path
        assert isinstance(preprocessing, VolumePreprocessing)
        volume = read_volume(
            path, frame, None if preprocessing.rules is None else ChannelRules.parse(preprocessing.rules)
        )
        tensor = torch.from_numpy(preprocessing.load(volume))
        return cls(path, volume, preprocessing, tensor, volume_token_grid(preprocessing, volume, patch), patch)

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: MapText) -> None:
        """Write NIfTI, or a PNG of the slice with the strongest values."""
        if form == "nifti":
            voxels = on_voxels(maps[0].values, self.preprocessing, self.volume, self.patch)
            write_nifti(path, voxels, self.volume, self.source, words.name)
        else:
            draw(path, self.render(maps, THUMBNAIL), maps, words)

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """Render over the slice in which the first map has its strongest values, whatever its size."""
        layer = int(np.abs(maps[0].values).sum(axis=(1, 2)).argmax())
        middle = (self.token_grid.edges(0, layer) + self.token_grid.edges(0, layer + 1)) / 2
        number = min(int(middle), self.volume.voxels.shape[1] - 1)
        # Seen from the feet, with the front at the top and the patient's right on the left, as radiologists do.
        shown = self._unit(self.volume.voxels[0, number].astype(np.float32))[::-1, ::-1]
        note = f"slice {number + 1} of {self.volume.voxels.shape[1]} from the feet"
        values = tuple(map_.values[layer, ::-1, ::-1] for map_ in maps)
        return RenderedMap(shown, values, self._flipped(maps[0].values.shape), note)

    def _flipped(self, grid: tuple[int, ...]) -> TokenGrid:
        """Positions of the tokens of a slice whose rows and columns are reversed."""
        token_grid = self.token_grid
        sides = token_grid.shape[1:]
        ends = [
            first + count * step for first, count, step in zip(token_grid.start, grid, token_grid.step, strict=True)
        ][1:]
        start = tuple(side - end for side, end in zip(sides, ends, strict=True))
        visible = tuple(
            (side - high, side - low) for side, (low, high) in zip(sides, token_grid.visible[1:], strict=True)
        )
        return TokenGrid(start, token_grid.step[1:], visible, sides)

    @staticmethod
    def _unit(voxels: np.ndarray) -> np.ndarray:
        low, high = np.percentile(voxels, (0.5, 99.5))
        return np.clip((voxels - low) / max(high - low, 1e-6), 0, 1)


def on_voxels(
    values: np.ndarray, preprocessing: VolumePreprocessing, volume: Volume, patch: tuple[int, int, int]
) -> np.ndarray:
    """Resample a map (d, h, w) from the token grid to a volume's voxels, float32 (D, H, W); 0 outside the input."""
    for axis, side in enumerate(patch):
        values = values.repeat(side, axis)
    depth, height, width = preprocessing.shape
    return preprocessing.to_source_grid(values[:depth, :height, :width], volume)


def write_nifti(path: Path, voxels: np.ndarray, volume: Volume, source: str, description: str) -> None:
    """Write a map that matches its source voxel by voxel.

    Args:
        path: Ends in .nii.gz.
        voxels: (D, H, W) on the grid of ``volume``.
        volume: As it was read.
        source: The file that it was read from: the axes of a NIfTI file are kept, others become RAS+.
        description: Of the map, cut to the 79 bytes of UTF-8 that the header can hold.
    """
    image = Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), volume.affine[:, [2, 1, 0, 3]])
    if is_nifti_file(Path(source)):
        wanted = io_orientation(read_affine(Path(source)))
        image = image.as_reoriented(ornt_transform(io_orientation(image.affine), wanted))
    image.header["descrip"] = description.encode()[:79].decode("utf-8", "ignore").encode()
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    write_atomically(path, gzip.compress(image.to_bytes(), mtime=0))


def volume_token_grid(preprocessing: VolumePreprocessing, volume: Volume, patch: Sequence[int]) -> TokenGrid:
    """Token grid of a volume on its own voxels, for patches of prepared voxels; preprocessing never rotates."""
    back = np.linalg.inv(volume.affine) @ np.asarray(preprocessing.affine(volume))
    scale = np.diag(back)[:3]  # source voxels per prepared voxel
    start = back[:3, 3] + 0.5 - scale / 2  # voxel i has its center at i + 1/2
    shape = volume.voxels.shape[1:]
    visible = tuple(
        (max(0.0, float(low)), min(float(side), float(low + length * factor)))
        for low, side, length, factor in zip(start, shape, preprocessing.shape, scale, strict=True)
    )
    step = tuple(float(side * factor) for side, factor in zip(patch, scale, strict=True))
    return TokenGrid(tuple(map(float, start)), step, visible, shape, volume.spacing, volume.affine)
