"""Preprocessing and augmentation of bags: the features of all tiles of a slide, or of a patient's slides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softfree.data.modalities.feature_files import TileFeatures, read_features, read_header
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import SampleSource, SourceFile, files_of, name_of

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions


@dataclass(frozen=True)
class BagPreprocessing:
    """Deterministic preprocessing of tile features, stored with a run and repeated wherever the run is used.

    Attributes:
        in_features: F, number of features of a tile.
        encoder: Name of the encoder; files that name another are refused. None if the files name none.
        positions: Use the positions of the tiles; otherwise all are at (0, 0).
        tile_dropout: Fraction of tiles dropped at random in training; 0 uses all.
    """

    kind: ClassVar[str] = "bag"

    in_features: int
    encoder: str | None = None
    positions: bool = True
    tile_dropout: float = 0.0

    @classmethod
    def create(cls, sources: Sequence[SampleSource]) -> BagPreprocessing:
        """Take number of features and encoder from the first readable file.

        Raises:
            UserError: No file can be read.
        """
        reason = "no files"
        for source in sources:
            for file in files_of(source):
                try:
                    return cls(*read_header(file.path))
                except ReadError as error:
                    reason = str(error)
        raise UserError(f"no feature file of the table can be read: {reason}")

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> BagPreprocessing:
        """Create it from the files of a training run."""
        return cls.create(sources)

    def load(self, source: SampleSource, frame: int | None = None) -> np.ndarray:
        """Read the files of one bag.

        Returns:
            float32 (N, F + 3): features, then x, y of the tile's center in millimeters, and the number of its file.

        Raises:
            ReadError: As :func:`~softfree.data.modalities.feature_files.read_features`, and ``no_resolution`` if the
                positions of the tiles are unknown.
        """
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: SampleSource, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the number of tiles."""
        if frame:
            raise ReadError(f"got frame {frame}; a bag of tiles has no frames", "unsupported", path=name_of(source))
        blocks = [self._rows(number, file) for number, file in enumerate(files_of(source))]
        bag = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)  # a copy of a large bag may not fit in memory
        return bag, (len(bag),)

    def small_copy(self, sample: torch.Tensor) -> np.ndarray:
        """Return the mean features of a bag (N, F + 3)."""
        return sample[:, :-3].mean(0).numpy()

    def augmentation(self) -> BagAugmentation:
        """Return the augmentation of bags."""
        return BagAugmentation(self.tile_dropout)

    def model_arguments(self) -> dict[str, Any]:
        """Return the model arguments that follow from the bags."""
        return {"in_features": self.in_features}

    def sample_bytes(self) -> int | None:
        """Return None: bags differ in size."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a run's configuration."""
        return asdict(self)

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        name = "" if self.encoder is None else f" of {self.encoder}"
        positions = "with their positions in millimeters" if self.positions else "without positions"
        return [f"Bags: all tiles of a sample, {self.in_features} features{name} each, {positions}."]

    def _rows(self, number: int, file: SourceFile) -> np.ndarray:
        tiles = read_features(file.path, mpp=file.mpp)
        self._check(file.path, tiles, file.mpp)
        out = np.zeros((len(tiles.features), self.in_features + 3), np.float32)
        out[:, : self.in_features] = tiles.features
        if self.positions:
            out[:, -3:-1] = tiles.coords_mm
        out[:, -1] = number
        return out

    def _check(self, path: str, tiles: TileFeatures, mpp: float | None) -> None:
        width = tiles.features.shape[1]
        if width != self.in_features:
            raise ReadError(
                f"{width} features per tile, expected {self.in_features}; encode all slides with one encoder",
                "unsupported",
                path=path,
            )
        if self.encoder is not None and tiles.encoder is not None and tiles.encoder != self.encoder:
            raise ReadError(
                f"features of the encoder {tiles.encoder}, expected {self.encoder}; encode all slides with one",
                "unsupported",
                path=path,
            )
        if self.positions and tiles.coords_mm is None and mpp is not None:
            raise ReadError("no coordinates of its tiles; extract the slide with them", "unsupported", path=path)
        if self.positions and tiles.coords_mm is None:
            raise ReadError(
                f"coordinates without micrometers per pixel ({tiles.tool} does not store them); add a column"
                " mpp with the resolution of the slide's finest level to the table",
                "no_resolution",
                path=path,
            )


class BagAugmentation:
    """Random rotation and flip of each slide about its center, and tile dropout.

    Args:
        tile_dropout: Fraction of tiles to drop.
    """

    def __init__(self, tile_dropout: float = 0.0) -> None:
        self.tile_dropout = tile_dropout

    def __call__(self, bag: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a bag (N, F + 3); equal seeds give equal results in any process and order."""
        import torch  # not at the top: prediction from an exported file works without it

        random = np.random.default_rng(seed)
        bag = bag.clone()
        for number in bag[:, -1].unique():
            angle, flip = random.uniform(0, 2 * math.pi), random.choice([-1.0, 1.0])
            turn = torch.tensor(
                [[flip * math.cos(angle), math.sin(angle)], [-flip * math.sin(angle), math.cos(angle)]],
                dtype=torch.float64,
            )
            own = bag[:, -1] == number
            positions = bag[own, -3:-1].double()
            center = (positions.amin(0) + positions.amax(0)) / 2
            bag[own, -3:-1] = ((positions - center) @ turn + center).to(bag.dtype)
        if self.tile_dropout:
            kept = random.random(len(bag)) >= self.tile_dropout
            kept[random.integers(len(bag))] = True  # keep at least one tile
            bag = bag[torch.from_numpy(kept)]
        return bag

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        dropped = f", {100 * self.tile_dropout:g} % of the tiles dropped" if self.tile_dropout else ""
        return f"slides rotated by any angle and flipped{dropped}"
