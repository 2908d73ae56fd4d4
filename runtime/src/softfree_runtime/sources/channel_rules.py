"""Channels from the DICOM series of a study and their differences, as used for breast MRI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.series import load_series
from softfree_runtime.readers.series_files import Series, series_in
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.walk import Skipped, folders_below

_EXAMPLE = "series: {pre: dyn pre, post: 1st pass}; channels: [pre, post, {subtract: [post, pre]}]"
# Maximum distance between the corners of two channels, in voxels.
_APART = 0.05


@dataclass(frozen=True)
class ChannelRules:
    """Rules as in a YAML file::

        series:
          pre: dyn pre
          post: 1st pass
        channels: [pre, post, {subtract: [post, pre]}]

    Attributes:
        series: Name and regular expression, searched for in SeriesDescription ignoring case.
        channels: In the order of the tensor: a name, or two names, of which the second is subtracted from the first.
    """

    series: tuple[tuple[str, str], ...]
    channels: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, rules: Any) -> ChannelRules:
        """Validate the content of a YAML file; UserError with an example."""
        if not isinstance(rules, Mapping) or set(rules) != {"series", "channels"}:
            raise UserError(f"--series: expected a file with 'series' and 'channels', such as {_EXAMPLE}")
        series, channels = rules["series"], rules["channels"]
        if not isinstance(series, Mapping) or not isinstance(channels, list) or not series or not channels:
            raise UserError(f"--series: expected names with patterns and a list of channels, such as {_EXAMPLE}")
        for name, pattern in series.items():
            _check_pattern(name, pattern)
        return cls(tuple(series.items()), tuple(_channel(channel, series) for channel in channels))

    def in_words(self) -> list[str]:
        """Describe the channels, for people."""
        return [" minus ".join(names) for names in self.channels]


def read_channels(folder: Path, rules: ChannelRules, *, max_voxels: int = 1 << 30) -> Volume:
    """Read the series of a study selected by the rules, as the channels of one float32 volume.

    Args:
        folder: Folder of the study; its series may be at any depth.
        rules: Series and their differences.
        max_voxels: Larger series are refused by their headers.

    Raises:
        ReadError: A pattern matches no series or several, series have different grids, or a series cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ReadError("not a folder; rules for series need the folder of a study", "unsupported", path=folder)
    skipped = Skipped()
    candidates = [series for directory, _ in folders_below(folder, skipped) for series in series_in(directory)]
    for closed, reason in skipped.closed.items():
        raise ReadError(f"cannot be listed ({reason}), and may contain a series", "missing", folder, [closed])
    used = {name for names in rules.channels for name in names}
    selected = {name: _matching(folder, name, pattern, candidates) for name, pattern in rules.series if name in used}
    volumes = {name: load_series(series.files[0], series, max_voxels=max_voxels) for name, series in selected.items()}
    (first, reference), *rest = volumes.items()
    for name, volume in rest:
        _refuse_other_grid(folder, first, reference, name, volume)
    voxels = np.concatenate([_values(volumes, names) for names in rules.channels])
    low, high = float(voxels.min()), float(voxels.max())
    steps = (*reference.steps, f"channels: {', '.join(rules.in_words())}")
    corrections = tuple(dict.fromkeys(words for volume in volumes.values() for words in volume.corrections))
    return Volume(voxels, reference.spacing, reference.affine, low, high, steps, reference.stored, corrections)


def _values(volumes: Mapping[str, Volume], names: tuple[str, ...]) -> np.ndarray:
    values = volumes[names[0]].to_float32()
    return values if len(names) == 1 else values - volumes[names[1]].to_float32()


def _matching(folder: Path, name: str, pattern: str, candidates: list[Series]) -> Series:
    """Find the series whose description matches; descriptions are never quoted, since they may contain names."""
    fitting = [series for series in candidates if re.search(pattern, series.description, re.IGNORECASE)]
    if len(fitting) != 1:
        count, fix = ("none", "fix") if not fitting else (str(len(fitting)), "narrow")
        raise ReadError(
            f"the pattern {pattern!r} of {name!r} fits {count} of {len(candidates)} series' descriptions; "
            f"expected one, {fix} the pattern",
            "unsupported",
            path=folder,
        )
    return fitting[0]


def _refuse_other_grid(folder: Path, first: str, reference: Volume, name: str, volume: Volume) -> None:
    shape, other = reference.voxels.shape[1:], volume.voxels.shape[1:]
    corners = np.array([[d, h, w, 1] for d in (0, shape[0] - 1) for h in (0, shape[1] - 1) for w in (0, shape[2] - 1)])
    apart = np.abs(corners @ (reference.affine - volume.affine).T).max()
    if shape == other and apart <= _APART * min(reference.spacing):
        return
    sizes = [" x ".join(map(str, size)) for size in (shape, other)]
    raise ReadError(
        f"the series of {first!r} and {name!r} are on different grids ({sizes[0]} and {sizes[1]} voxels, "
        f"up to {apart:.3g} mm apart); resample them to one grid",
        "unsupported",
        path=folder,
    )


def _check_pattern(name: Any, pattern: Any) -> None:
    if not isinstance(name, str) or not isinstance(pattern, str):
        raise UserError(f"--series: {name!r}: {pattern!r} is not a name with a pattern; put both in quotes")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"--series: {pattern!r} is not a regular expression ({error}); correct it") from None


def _channel(channel: Any, series: Mapping[str, str]) -> tuple[str, ...]:
    names = channel.get("subtract") if isinstance(channel, Mapping) and len(channel) == 1 else [channel]
    difference = isinstance(channel, Mapping)
    if (
        not isinstance(names, list)
        or len(names) != 1 + difference
        or not all(isinstance(name, str) and name in series for name in names)
    ):
        raise UserError(
            f"--series: channel {channel!r}: expected one of {', '.join(series)}, or {{subtract: [one, another]}}"
        )
    return tuple(names)
