"""Preprocessing of volumes for exported models, in numpy and SciPy: the reference for the JSON in a file's metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.channel_rules import ChannelRules
from softfree_runtime.sources.volume_files import volume_of

PERCENTILES = (0.5, 99.5)
NEAR = 1e-3


@dataclass(frozen=True)
class NumpyVolumePreprocessing:
    """Equal within 1e-4 to :class:`softfree.data.modalities.volume.VolumePreprocessing`, without torch.

    Attributes:
        preset: ``mr`` or ``ct``.
        shape: Numbers of slices, rows and columns.
        spacing: Millimeters between slices, rows and columns; None keeps each file's own.
        channels: Number of channels.
        rules: Which series of a study are the channels, parsed by :mod:`~softfree_runtime.sources.channel_rules`.
        window: Lowest and highest value for ``ct``.
    """

    kind: ClassVar[str] = "volume"

    preset: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    channels: int
    rules: dict[str, Any] | None = field(default=None, hash=False)
    window: tuple[float, float] | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> NumpyVolumePreprocessing:
        """Create it from :meth:`to_dict`; KeyError, TypeError or ValueError for anything else."""
        if fields["preset"] not in ("mr", "ct") or len(fields["shape"]) != 3:
            raise ValueError(f"preset {fields['preset']!r} with shape {fields['shape']!r}")
        spacing, window = (
            None if fields[key] is None else tuple(map(float, fields[key])) for key in ("spacing", "window")
        )
        depth, height, width = map(int, fields["shape"])
        shape = (depth, height, width)
        return cls(fields["preset"], shape, spacing, int(fields["channels"]), fields["rules"], window)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    def load(self, source: str | Volume, frame: int | None = None) -> np.ndarray:
        """Read a volume, unless it is already decoded, and prepare it: float32 (C, D, H, W) of ``shape``.

        Raises:
            ReadError: The source cannot be read as a volume, or has another number of channels.
        """
        volume = volume_of(source, frame, self._channel_rules, self.channels)
        values = self._scaled(volume.to_float32())
        if self.spacing is not None:
            values = _resampled(values, volume.spacing, self.spacing)
        for axis, side in enumerate(self.shape, start=1):
            values = _centered(values, axis, side, 0.0 if self.preset == "mr" else -1.0)
        return np.ascontiguousarray(values, dtype=np.float32)

    @cached_property
    def _channel_rules(self) -> ChannelRules | None:
        return None if self.rules is None else ChannelRules.parse(self.rules)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """Scale values (C, D, H, W): mr to mean 0 and standard deviation 1, ct to the range -1 to 1."""
        if self.window is not None:
            low, high = self.window
            return np.clip((values - np.float32(low)) * np.float32(2 / (high - low)) - 1, -1, 1)
        return np.stack([_standard(channel) for channel in values])


def _standard(channel: np.ndarray) -> np.ndarray:
    """Clip a channel (D, H, W) to its percentiles and standardize it; a blank one becomes 0."""
    low, high = np.percentile(channel, PERCENTILES)
    if low == high:
        channel = channel - np.float32(low)
    else:
        channel = np.clip((channel - np.float32(low)) / np.float32(high - low), 0, 1)
    wide = channel.astype(np.float64)
    return ((wide - wide.mean()) / (wide.std() or 1.0)).astype(np.float32)


def _resampled(values: np.ndarray, old: tuple[float, ...], new: tuple[float, ...]) -> np.ndarray:
    """Resample (C, D, H, W) linearly to another spacing; the first voxel keeps its position.

    For a coarser grid, values are first smoothed by the Gaussian of scikit-image's resize.
    """
    sigmas = np.clip((np.divide(new, old) - 1) / 2, 0, values.shape[1:])  # a wider one makes no difference
    if sigmas.any():
        values = gaussian_filter(values, (0, *sigmas), mode="nearest")
    # As in MONAI, which does not resample within a tolerance of 0.001.
    ratios = np.where(np.abs(np.subtract(new, old)) <= NEAR, 1.0, np.divide(new, old))
    sides = tuple(int(np.round((side - 1) / ratio + 1)) for side, ratio in zip(values.shape[1:], ratios, strict=True))
    if sides == values.shape[1:] and np.allclose(ratios, 1, atol=NEAR):
        return values
    axes = [np.arange(side) * ratio for side, ratio in zip(sides, ratios, strict=True)]
    positions = np.meshgrid(*axes, indexing="ij")
    return np.stack([map_coordinates(channel, positions, order=1, mode="nearest") for channel in values])


def _centered(values: np.ndarray, axis: int, size: int, padding: float) -> np.ndarray:
    """Crop one axis to its center, or pad it."""
    side = values.shape[axis]
    if side >= size:
        start = side // 2 - size // 2
        return values.take(range(start, start + size), axis)
    before = (size - side) // 2
    ends = [(before, size - side - before) if number == axis else (0, 0) for number in range(values.ndim)]
    return np.pad(values, ends, constant_values=padding)
