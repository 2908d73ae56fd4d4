"""A volume to explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.saliency.captions import MapText
from softfree.saliency.geometry import TokenGrid, volume_token_grid
from softfree.saliency.maps import Map
from softfree.saliency.regions import Region
from softfree.saliency.rendering import RenderedMap
from softfree.saliency.samples.base import THUMBNAIL, draw
from softfree.saliency.volume_file import on_voxels, write_nifti
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.channel_rules import ChannelRules
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
    def read(
        cls, preprocessing: Preprocessing, source: str, frame: int | None, patch: tuple[int, int, int]
    ) -> VolumeSample:
        """Read and prepare a volume."""
        assert isinstance(preprocessing, VolumePreprocessing)
        volume = read_volume(
            source, frame, None if preprocessing.rules is None else ChannelRules.parse(preprocessing.rules)
        )
        tensor = torch.from_numpy(preprocessing.load(volume))
        return cls(source, volume, preprocessing, tensor, volume_token_grid(preprocessing, volume, patch), patch)

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: MapText) -> None:
        """Write NIfTI, or a PNG of the slice with the strongest values."""
        if form == "nifti":
            voxels = on_voxels(maps[0].values, self.preprocessing, self.volume, self.patch)
            write_nifti(path, voxels, self.volume, self.source, words.name)
        else:
            draw(path, self.render(maps, THUMBNAIL), maps, words)

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """View the slice where the first map has its strongest values, whatever its size."""
        layer = int(np.abs(maps[0].values).sum(axis=(1, 2)).argmax())
        middle = (self.token_grid.edges(0, layer) + self.token_grid.edges(0, layer + 1)) / 2
        number = min(int(middle), self.volume.voxels.shape[1] - 1)
        # Seen from the feet, the front above and the patient's right on the left, as radiologists do.
        shown = self._unit(self.volume.voxels[0, number].astype(np.float32))[::-1, ::-1]
        note = f"slice {number + 1} of {self.volume.voxels.shape[1]} from the feet"
        values = tuple(one.values[layer, ::-1, ::-1] for one in maps)
        return RenderedMap(shown, values, self._flipped(maps[0].values.shape), note)

    def _flipped(self, grid: tuple[int, ...]) -> TokenGrid:
        """Places of a slice whose rows and columns run the other way."""
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
