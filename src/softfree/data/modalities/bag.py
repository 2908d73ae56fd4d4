"""Preprocessing and augmentation of bags: the features of all tiles of a slide, or of the slides of a case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softfree.data.modalities.feature_files import TileFeatures, read_features, read_header
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.preprocessing.case import left_out_of, relative_times, view_number
from softfree_runtime.preprocessing.variables import TakesVariables
from softfree_runtime.preprocessing.variables import hidden as hidden_variables
from softfree_runtime.sources.cases import known_views, longest_time
from softfree_runtime.sources.sample_source import CaseFile, SampleSource, SourceFile, files_of, name_of

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions

COORDINATES = 3  # at the end of the row of a tile: x, y and the number of its file
VIEW, TIME = -5, -4  # columns before these, if the bags of a run have views or times
UNKNOWN_VIEW = 0.1  # share of slides whose view the augmentation hides, so that a model also works without views


@dataclass(frozen=True)
class BagPreprocessing(TakesVariables):
    """Deterministic preprocessing of tile features, stored with a run and repeated wherever the run is used.

    Attributes:
        in_features: F, number of features of a tile.
        encoder: Name of the encoder; files that name another are refused. None if the files name none.
        positions: Use the positions of the tiles; otherwise all are at (0, 0).
        tile_dropout: Fraction of tiles dropped at random in training; 0 uses all.
        views: Known views of slides, numbered from 1; 0 stands for all others.
        time_scale: Longest time between two slides of a training case, the unit of time of the model; None to ignore
            times.
        view_dropout: Share of the slides of a case that training leaves out, so that the model also works with fewer.
        variables: Fields of each :class:`~softfree_runtime.preprocessing.variables.Variable` of a bag.
        variable_dropout: Share of the clinical variables that training hides, and of the bags of which it hides all.
    """

    kind: ClassVar[str] = "bag"

    in_features: int
    encoder: str | None = None
    positions: bool = True
    tile_dropout: float = 0.0
    views: list[str] = field(default_factory=list)
    time_scale: float | None = None
    view_dropout: float = 0.0
    variables: list[dict[str, Any]] = field(default_factory=list)
    variable_dropout: float = 0.0

    @classmethod
    def create(cls, sources: Sequence[SampleSource], view_dropout: float = 0.0) -> BagPreprocessing:
        """Take number of features and encoder from the first readable file, views and times from all cases.

        Raises:
            UserError: No file can be read.
        """
        reason = "no files"
        for source in sources:
            for file in files_of(source):
                try:
                    features, encoder = read_header(file.path)
                    views, scale = known_views(sources), longest_time(sources)
                    dropout = view_dropout if any(len(files_of(source)) > 1 for source in sources) else 0.0
                    return cls(features, encoder, views=views, time_scale=scale, view_dropout=dropout)
                except ReadError as error:
                    reason = str(error)
        raise UserError(f"no feature file of the table can be read: {reason}")

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> BagPreprocessing:
        """Create it from the files of a training run."""
        from softfree.data.variables import describe_variables  # needs pandas, which an exported file works without

        variables = describe_variables(options.variables or (), options.categorical or (), sources)
        bags = cls.create(sources, options.view_dropout)
        return replace(bags, variables=variables, variable_dropout=options.variable_dropout) if variables else bags

    @property
    def of_cases(self) -> bool:
        """Whether the tiles have the views or the times of their slides."""
        return bool(self.views) or self.time_scale is not None

    @property
    def row_width(self) -> int:
        """Number of values of a tile of a prepared bag."""
        return self.in_features + len(self.variables) + 2 * self.of_cases + COORDINATES

    def load(self, source: SampleSource, frame: int | None = None) -> np.ndarray:
        """Read the readable files of one bag.

        Returns:
            float32 (N, F + 3): features, then x, y of the tile's center in millimeters, and the number of its file.
            With views or times (N, F + 5): these stand before x. Clinical variables stand after the features.

        Raises:
            ReadError: As :func:`~softfree.data.modalities.feature_files.read_features`, and ``no_resolution`` if the
                positions of the tiles are unknown; of a case only if none of its files can be read. A variable is
                text instead of a number.
        """
        return self.load_readable(source, frame)[0]

    def load_sized(self, source: SampleSource, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the number of tiles."""
        bag = self.load(source, frame)
        return bag, (len(bag),)

    def load_readable(self, source: SampleSource, frame: int | None = None) -> tuple[np.ndarray, ReadError | None]:
        """Return :meth:`load`, and an error that names the files of a case that are left out; None if none is."""
        files = files_of(source)
        if frame or any(isinstance(file, CaseFile) and file.frame for file in files):
            number = frame or next(file.frame for file in files if isinstance(file, CaseFile) and file.frame)
            raise ReadError(f"got frame {number}; a bag of tiles has no frames", "unsupported", path=name_of(source))
        blocks: list[np.ndarray] = []
        errors = []
        variables = self.encoded_variables(source)
        for file, time in zip(files, relative_times(files, self.time_scale), strict=True):
            try:
                blocks.append(self._rows(len(blocks), file, time, variables))
            except ReadError as error:
                errors.append(error)
        left_out = left_out_of(errors, len(files), "files")
        return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks)), left_out  # a copy may not fit in memory

    def small_copy(self, sample: torch.Tensor) -> np.ndarray:
        """Return the mean features of a bag (N, F + 3)."""
        return sample[:, : self.in_features].mean(0).numpy()

    def variable_values(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the clinical variables (N, V) of a bag, a view, the same for each tile."""
        return sample[:, self.in_features : self.in_features + len(self.variables)]

    def augmentation(self) -> BagAugmentation:
        """Return the augmentation of bags."""
        return BagAugmentation(self)

    def augmentation_of_views(self) -> BagAugmentation:
        """Return the augmentation for prediction, which leaves nothing out."""
        return BagAugmentation(replace(self, tile_dropout=0.0, view_dropout=0.0, variable_dropout=0.0), unknown_view=0)

    def model_arguments(self) -> dict[str, Any]:
        """Return the model arguments that follow from the bags."""
        arguments: dict[str, Any] = {"in_features": self.in_features}
        if self.of_cases:
            arguments |= {"views": len(self.views), "timed": self.time_scale is not None}
        return arguments

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
        views = f"; the views {', '.join(self.views)}" if self.views else ""
        times = "" if self.time_scale is None else f"; times in units of {self.time_scale:g}"
        words = [f"Bags: all tiles of a sample, {self.in_features} features{name} each, {positions}{views}{times}."]
        return words + self.variables_in_words()

    def _rows(self, number: int, file: SourceFile, time: float, variables: np.ndarray) -> np.ndarray:
        tiles = read_features(file.path, mpp=file.mpp)
        self._check(file.path, tiles, file.mpp)
        out = np.zeros((len(tiles.features), self.row_width), np.float32)
        out[:, : self.in_features] = tiles.features
        out[:, self.in_features : self.in_features + len(variables)] = variables
        if self.of_cases:
            out[:, VIEW], out[:, TIME] = view_number(file, self.views), time
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
    """Random rotation and flip of each slide about its center; slides, views, variables and tiles are left out.

    Args:
        preprocessing: Of the bags.
        unknown_view: Share of slides whose view is hidden.
    """

    def __init__(self, preprocessing: BagPreprocessing, unknown_view: float = UNKNOWN_VIEW) -> None:
        self.preprocessing, self.unknown_view = preprocessing, unknown_view
        self.tile_dropout, self.view_dropout = preprocessing.tile_dropout, preprocessing.view_dropout

    def __call__(self, bag: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a bag (N, F + 3); equal seeds give equal results in any process and order."""
        import torch  # not at the top: prediction from an exported file works without it

        random = np.random.default_rng(seed)
        bag = self._fewer_slides(bag, random) if self.view_dropout else bag.clone()
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
            if self.preprocessing.of_cases and random.random() < self.unknown_view:
                bag[own, VIEW] = 0
        if share := self.preprocessing.variable_dropout:
            variables = self.preprocessing.variable_values(bag)
            variables[:, hidden_variables(variables.shape[1], share, random)] = math.nan
        if self.tile_dropout:
            kept = random.random(len(bag)) >= self.tile_dropout
            kept[random.integers(len(bag))] = True  # keep at least one tile
            bag = bag[torch.from_numpy(kept)]
        return bag

    def _fewer_slides(self, bag: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Return a copy without some of its slides, which are numbered anew as if these were missing."""
        import torch

        _, numbers = bag[:, -1].unique(return_inverse=True)
        count = int(numbers.max()) + 1
        kept = random.random(count) >= self.view_dropout
        kept[random.integers(count)] = True  # keep at least one slide
        kept_of_tile = torch.from_numpy(kept)[numbers]
        bag = bag[kept_of_tile]
        bag[:, -1] = torch.from_numpy(np.cumsum(kept) - 1)[numbers[kept_of_tile]].to(bag.dtype)
        return bag

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        left_out = f", {100 * self.view_dropout:g} % of the slides of a case left out" if self.view_dropout else ""
        hidden = f", {100 * self.unknown_view:g} % of the views hidden" if self.preprocessing.of_cases else ""
        hidden += self.preprocessing.hidden_in_words()
        dropped = f", {100 * self.tile_dropout:g} % of the tiles dropped" if self.tile_dropout else ""
        return f"slides rotated by any angle and flipped{left_out}{hidden}{dropped}"
