"""Preprocessing and augmentation of volumes, the same in training, prediction and export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    NormalizeIntensity,
    RandAdjustContrast,
    RandAffine,
    RandFlip,
    RandGaussianNoise,
    RandScaleIntensity,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
    Spacing,
    SpatialResample,
    Transform,
)
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from softfree.core.options import TrainOptions
from softfree.data.modalities.image import plain_tensors
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.channel_rules import ChannelRules
from softfree_runtime.sources.sample_source import SampleSource
from softfree_runtime.sources.volume_files import volume_of

Modality = Literal["mr", "ct"]
PERCENTILES = (0.5, 99.5)
SMALL = 12  # side of a small copy, voxels
HOUNSFIELD = (-1000.0, 1000.0)


@dataclass(frozen=True)
class VolumePreprocessing:
    """Deterministic preprocessing of volumes, stored with a run and repeated wherever the run is used.

    Attributes:
        preset: ``mr`` (each channel clipped to its percentiles and standardized) or ``ct`` (a window of
            Hounsfield units becomes -1 to 1).
        shape: Numbers of slices, rows and columns.
        spacing: Millimeters between slices, rows and columns; None keeps each file's own.
        channels: Number of channels.
        rules: Which series of a study are the channels, parsed by
            :mod:`softfree_runtime.sources.channel_rules`; None for a single volume.
        window: Lowest and highest value for ``ct``.
    """

    kind: ClassVar[str] = "volume"

    preset: Modality
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None = None
    channels: int = 1
    rules: dict[str, Any] | None = field(default=None, hash=False)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # Configuration files contain lists.
        for name in ("shape", "spacing", "window"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))

    @classmethod
    def create(
        cls,
        preset: Modality,
        shape: Sequence[int],
        spacing: Sequence[float] | None = None,
        channels: int | None = None,
        rules: dict[str, Any] | None = None,
        window: Sequence[float] | None = None,
    ) -> VolumePreprocessing:
        """Fill in the channels of the rules and the window of ``ct``; UserError for invalid values."""
        if preset not in ("mr", "ct"):
            raise UserError(f"--modality {preset}: expected mr or ct")
        if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise UserError(f"--shape {list(shape)}: expected three whole numbers above 0: slices, rows, columns")
        if spacing is not None and (len(spacing) != 3 or not all(0 < step < np.inf for step in spacing)):
            raise UserError(f"--spacing {list(spacing)}: expected three lengths in mm: between slices, rows, columns")
        if window is not None and preset != "ct":
            raise UserError("--window is for --modality ct; leave it out, or choose ct")
        if window is not None and (len(window) != 2 or not -np.inf < window[0] < window[1] < np.inf):
            raise UserError(f"--window {list(window)}: expected the lowest and the highest value, in this order")
        rule_count = 1 if rules is None else len(ChannelRules.parse(rules).channels)
        if channels not in (None, rule_count) and rules is not None:
            raise UserError(f"got channels {channels}; the rules of --series give {rule_count}")
        low_high = None if preset == "mr" else tuple(float(value) for value in window or HOUNSFIELD)
        steps = None if spacing is None else tuple(float(step) for step in spacing)
        return cls(preset, tuple(shape), steps, channels or rule_count, rules, low_high)  # type: ignore[arg-type]

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> VolumePreprocessing:
        """Create it from the options of a training run."""
        rules = None if options.series is None else read_yaml(options.series, "--series")
        return cls.create(options.modality, options.shape, options.spacing, window=options.window, rules=rules)

    def __call__(self, volume: Volume) -> np.ndarray:
        """Return float32 (C, D, H, W) of ``shape``: slices to the head, rows to the front, columns to the right."""
        with quiet(), _tracked():
            values = self._smooth(np.asarray(self._intensity(volume.to_float32())), volume.spacing)
            placed: MetaTensor = self._grid(MetaTensor(values, affine=_straight(volume)))
            return np.ascontiguousarray(placed.as_tensor().numpy(), dtype=np.float32)

    def load(self, source: str | Volume, frame: int | None = None) -> np.ndarray:
        """Read a volume, unless it is already decoded, and prepare it.

        Raises:
            ReadError: The source cannot be read as a volume, or has another number of channels.
        """
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: str | Volume, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the slices, rows and columns of the original."""
        volume = volume_of(source, frame, self._channel_rules, self.channels)
        return self(volume), volume.voxels.shape[1:]

    def small_copy(self, sample: torch.Tensor) -> np.ndarray:
        """Reduce a prepared volume (C, D, H, W) to ``SMALL`` voxels a side."""
        return np.ascontiguousarray(F.adaptive_avg_pool3d(sample, SMALL).numpy(), np.float32).ravel()

    def to_source_grid(self, values: np.ndarray, volume: Volume) -> np.ndarray:
        """Resample values from the prepared grid to a volume's own voxels, linearly; 0 where the model saw nothing.

        Args:
            values: ``(D', H', W')``, such as a map of relevance, on the grid of ``shape``.
            volume: The volume that was prepared.

        Returns:
            float32 (D, H, W) on the grid of ``volume.voxels``.
        """
        with quiet(), _tracked():
            prepared = MetaTensor(np.asarray(values, dtype=np.float32)[None], affine=self._own_affine(volume))
            back = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
            resampled: Any = back(prepared, dst_affine=_straight(volume), spatial_size=volume.voxels.shape[1:])
            return np.ascontiguousarray(resampled.as_tensor()[0].numpy())

    def affine(self, volume: Volume) -> torch.Tensor:
        """Return float64 (4, 4) from a voxel of the prepared grid to millimeters RAS+, without resampling."""
        to_ras = torch.from_numpy(volume.affine) @ _straight(volume).inverse()
        return to_ras @ self._own_affine(volume)

    def _own_affine(self, volume: Volume) -> torch.Tensor:
        """Return the affine to millimeters along the volume's own axes."""
        with quiet(), _tracked():
            empty = torch.zeros(1, 1, 1, 1).expand(1, *volume.voxels.shape[1:])
            placed = self._grid(MetaTensor(empty, affine=_straight(volume)), lazy=True)
            return torch.as_tensor(placed.peek_pending_affine())

    def augmentation(self) -> VolumeAugmentation:
        """Return the augmentation of the preset."""
        return VolumeAugmentation(self.preset, self.shape, self.spacing)

    def model_arguments(self) -> dict[str, Any]:
        """Return the model arguments that follow from the volumes."""
        return {"img_size": list(self.shape), "in_chans": self.channels, "spacing": list(self.spacing or (1.0,) * 3)}

    def sample_bytes(self) -> int:
        """Return the bytes of a prepared volume."""
        return 4 * self.channels * int(np.prod(self.shape))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a run's configuration."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        low, high = self.window or HOUNSFIELD
        scale = (
            "each channel clipped to its {:g} and {:g} percentiles and standardized".format(*PERCENTILES)
            if self.preset == "mr"
            else f"values from {low:g} to {high:g} scaled to -1 to 1, others clipped"
        )
        spacing = (
            "Each volume keeps its own spacing."
            if self.spacing is None
            else f"Resampled to {_times(self.spacing)} mm between slices, rows and columns."
        )
        rules = self._channel_rules
        return [
            f"Preset {self.preset}: {scale}.",
            *([f"Channels: {', '.join(rules.in_words())}."] if rules else []),
            "Axes turned: slices from the feet to the head, rows from back to front, columns from left to right.",
            spacing,
            f"Cropped or padded about the center to {_times(self.shape)} voxels.",
        ]

    @cached_property
    def _channel_rules(self) -> ChannelRules | None:
        return None if self.rules is None else ChannelRules.parse(self.rules)

    @cached_property
    def _intensity(self) -> Compose:
        if self.preset == "ct":
            low, high = self.window or HOUNSFIELD
            return Compose([ScaleIntensityRange(low, high, -1.0, 1.0, clip=True)])
        return Compose(
            [
                ScaleIntensityRangePercentiles(*PERCENTILES, 0.0, 1.0, clip=True, channel_wise=True),
                NormalizeIntensity(channel_wise=True),
            ]
        )

    @cached_property
    def _grid(self) -> Compose:
        # Pads mr with the mean, ct with air.
        fit = ResizeWithPadOrCrop(self.shape, mode="constant", value=0.0 if self.preset == "mr" else -1.0)
        resample = [] if self.spacing is None else [Spacing(self.spacing, mode="bilinear", dtype=np.float32)]
        return Compose([*resample, fit])

    def _smooth(self, values: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
        """Smooth ``(C, D, H, W)`` for a coarser grid, by the Gaussian of scikit-image's resize."""
        if self.spacing is None:
            return values
        sigmas = np.clip((np.divide(self.spacing, spacing) - 1) / 2, 0, values.shape[1:])  # wider is no different
        return gaussian_filter(values, (0, *sigmas), mode="nearest") if sigmas.any() else values


def _straight(volume: Volume) -> torch.Tensor:
    """Return float64 (4, 4) from a voxel to millimeters along the volume's own axes.

    All resampling uses these axes. With an oblique affine, the last digit of a header's numbers would decide whether
    MONAI keeps the first voxel in place, as it does here, or the center.
    """
    return torch.diag(torch.tensor([*volume.spacing, 1.0], dtype=torch.float64))


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


@contextmanager
def _tracked() -> Iterator[None]:
    """Enable MONAI's tracking of the affine, which a program may have disabled for speed."""
    before = get_track_meta()
    set_track_meta(True)
    try:
        yield
    finally:
        set_track_meta(before)


_DEGREES = 10.0
_SHIFT = 0.05
_SCALE = 0.1
_ISOTROPIC = 1.1


class VolumeAugmentation:
    """Random augmentation of a prepared volume, a pure function of the volume and a seed.

    Args:
        preset: ``mr`` or ``ct``.
        shape: Numbers of slices, rows and columns.
        spacing: Millimeters between them; None if they differ between volumes.

    Rotation is in voxel space and preserves the anatomy's shape only if voxels are cubes; otherwise it stays within the
    slices. Left-right flips are for ``mr`` only: in CT of the trunk the side of heart and liver carries meaning.
    """

    def __init__(
        self, preset: str, shape: tuple[int, int, int], spacing: tuple[float, float, float] | None = None
    ) -> None:
        self.preset, self.shape, self.spacing = preset, shape, spacing

    def __call__(self, voxels: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment ``voxels`` (C, D, H, W); equal seeds give equal results in any process and order."""
        self._changes.set_random_state(seed=seed)
        with plain_tensors(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return torch.as_tensor(self._changes(voxels))

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        about = "about all axes" if self._cubes else "within the slices"
        space = f"rotation by up to {_DEGREES:g} degrees {about}, shift by 5 %, scale by 10 %"
        if self.preset == "mr":
            return f"left-right flips, {space}, contrast, noise"
        return f"{space}, intensity by 5 %, noise"

    @property
    def _cubes(self) -> bool:
        return self.spacing is not None and max(self.spacing) <= _ISOTROPIC * min(self.spacing)

    @cached_property
    def _changes(self) -> Compose:
        angle = np.deg2rad(_DEGREES)
        affine = RandAffine(
            prob=0.9,
            rotate_range=(angle, angle, angle) if self._cubes else (angle, 0.0, 0.0),
            translate_range=[_SHIFT * side for side in self.shape],
            scale_range=(_SCALE,) * 3,
            padding_mode="border",
        )
        changes: dict[str, list[Transform]] = {
            "mr": [
                RandFlip(prob=0.5, spatial_axis=2),
                affine,
                RandAdjustContrast(prob=0.5, gamma=(0.7, 1.4)),
                RandGaussianNoise(prob=0.3, std=0.1),
            ],
            "ct": [affine, RandScaleIntensity(factors=0.05, prob=0.5), RandGaussianNoise(prob=0.3, std=0.02)],
        }
        return Compose(changes[self.preset])
