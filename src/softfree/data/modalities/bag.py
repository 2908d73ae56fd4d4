"""From the features of the tiles of a slide, or of a patient's slides, to the tensor that a model sees: all tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softfree.data.modalities.base import files_of
from softfree.data.modalities.feature_files import TileFeatures, read_features, read_header
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.joined_source import split_source

if TYPE_CHECKING:
    import torch

    from softfree.training.options import TrainOptions


@dataclass(frozen=True)
class BagPreprocessing:
    """The deterministic steps of the feature road; stored with a run and replayed wherever it is used.

    Attributes:
        in_features: F, features of a tile.
        encoder: Its name; files that name another are refused. None where the files name none.
        positions: Give the model the tiles' places; without, all stand at (0, 0).
        tile_dropout: Part of the tiles that training leaves out at random; 0 uses all of them.
    """

    kind: ClassVar[str] = "bag"

    in_features: int
    encoder: str | None = None
    positions: bool = True
    tile_dropout: float = 0.0

    @classmethod
    def create(cls, files: Sequence[str]) -> BagPreprocessing:
        """Take features and encoder from the first file that can be read.

        Raises:
            UserError: None can.
        """
        reason = "no file was given"
        for source in files:
            for file in files_of(source):
                try:
                    return cls(*read_header(split_source(file)[0]))
                except ReadError as error:
                    reason = str(error)
        raise UserError(f"no feature file of the table can be read: {reason}")

    @classmethod
    def from_options(cls, options: TrainOptions, files: Sequence[str]) -> BagPreprocessing:
        """Create it from the files of a training run."""
        return cls.create(files)

    def load(self, source: str, frame: int | None = None) -> np.ndarray:
        """Read the files of one bag, joined by ``;``, as :mod:`softfree_runtime.sources.joined_source` joins them.

        Returns:
            float32 (N, F + 3): features, then x, y of the tile's center in millimeters, and the number of its file.

        Raises:
            ReadError: As :func:`~softfree.data.modalities.feature_files.read_features`, and ``no_resolution`` where the
                tiles' places are not known.
        """
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: str, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """The same, and the number of its tiles."""
        if frame:
            raise ReadError(f"{source}: frame {frame} was asked for; a bag of tiles has none", "unsupported")
        parts = [self._rows(number, file) for number, file in enumerate(files_of(source))]
        bag = parts[0] if len(parts) == 1 else np.concatenate(parts)  # a copy of a large bag may not fit
        return bag, (len(bag),)

    def small_copy(self, sample: torch.Tensor) -> np.ndarray:
        """Return the mean features of a bag (N, F + 3)."""
        return sample[:, :-3].mean(0).numpy()

    def augmentation(self) -> BagAugmentation:
        """The random changes that go with these steps."""
        return BagAugmentation(self.tile_dropout)

    def model_arguments(self) -> dict[str, Any]:
        """What a model must be told of the bags."""
        return {"in_features": self.in_features}

    def sample_bytes(self) -> int | None:
        """None: each bag has a size of its own."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a run's configuration."""
        return asdict(self)

    def in_words(self) -> list[str]:
        """What is done, one sentence a step, for people."""
        name = "" if self.encoder is None else f" of {self.encoder}"
        places = "their centers in millimeters" if self.positions else "without their places"
        return [f"Bags: all tiles of a sample, {self.in_features} features{name} each, {places}; no tile is left out."]

    def _rows(self, number: int, file: str) -> np.ndarray:
        path, mpp = split_source(file)
        tiles = read_features(path, mpp=mpp)
        self._check(path, tiles, mpp)
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
                f"{path}: {width} features a tile, expected {self.in_features}; encode all slides with one encoder",
                "unsupported",
            )
        if self.encoder is not None and tiles.encoder is not None and tiles.encoder != self.encoder:
            raise ReadError(
                f"{path}: features of the encoder {tiles.encoder}, expected {self.encoder}; encode all slides with one",
                "unsupported",
            )
        if self.positions and tiles.coords_mm is None and mpp is not None:
            raise ReadError(f"{path}: no coordinates of its tiles; extract the slide with them", "unsupported")
        if self.positions and tiles.coords_mm is None:
            raise ReadError(
                f"{path}: coordinates without micrometers per pixel ({tiles.tool} does not store them); add a column"
                " mpp with the resolution of the slide's finest level to the table",
                "no_resolution",
            )


class BagAugmentation:
    """Each slide turned by any angle about its center and flipped, tiles left out if asked for.

    Args:
        tile_dropout: Part of the tiles to leave out.
    """

    def __init__(self, tile_dropout: float = 0.0) -> None:
        self.tile_dropout = tile_dropout

    def __call__(self, bag: torch.Tensor, seed: int) -> torch.Tensor:
        """Change a bag (N, F + 3), equal seeds giving equal results in any process and order."""
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
            places = bag[own, -3:-1].double()
            center = (places.amin(0) + places.amax(0)) / 2
            bag[own, -3:-1] = ((places - center) @ turn + center).to(bag.dtype)
        if self.tile_dropout:
            kept = random.random(len(bag)) >= self.tile_dropout
            kept[random.integers(len(bag))] = True  # a bag without tiles is none
            bag = bag[torch.from_numpy(kept)]
        return bag

    def in_words(self) -> str:
        """What is changed, for people."""
        dropped = f", {100 * self.tile_dropout:g} % of the tiles left out" if self.tile_dropout else ""
        return f"slides turned by any angle and flipped{dropped}"
