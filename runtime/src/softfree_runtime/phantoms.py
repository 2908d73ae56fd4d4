"""Three phantoms that are the same on every machine, to see whether a model gives the same logits everywhere.

Their pixels come from integer arithmetic alone: the random numbers of a library may change with its version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.session import Model
from softfree_runtime.sources.sample_source import SourceFile

VERSION = 1
"""Increased when a phantom changes."""
SIDES = ((1.0, 1.0), (1.25, 1.0), (1.0, 0.75))
"""Sides of the three phantoms, relative to what the model takes, so that they are resized or padded, too."""
TOLERANCE = 1e-3
"""Largest accepted difference of a logit, relative to the largest logit or 1; it shifts a probability by 0.00025.
In models of 12 layers, float32 differed from float64 by 5e-5 with SOFT, whose inverse is iterated, and by 1e-6 with
most other attentions; another preset's normalization changed logits by 0.3 or more."""
_CELLS = 8  # blocks along each side
_TILES, _COLUMNS, _STEP = 64, 8, 0.25  # tiles of a bag, their columns, and the distance of their centers in mm
_SLIDE = 768  # side in pixels, at half the micrometers per pixel that the model takes
_WHITE = 245


@dataclass(frozen=True)
class Reproduction:
    """Logits of the phantoms compared with those that were recorded.

    Attributes:
        difference: The largest difference of a logit; NaN if a logit is not finite here.
        tolerance: The largest difference that rounding explains.
    """

    difference: float
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict, for JSON."""
        difference = self.difference if np.isfinite(self.difference) else None
        return {"same": self.same, "difference": difference, "tolerance": self.tolerance}

    def __str__(self) -> str:
        verdict = "the same logits as recorded" if self.same else "OTHER LOGITS than recorded"
        largest = f"largest difference {self.difference:.1e}, tolerance {self.tolerance:.1e}"
        return f"{verdict} for {len(SIDES)} phantoms ({largest})"


def recorded(logits: np.ndarray, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Return what a run or an exported file keeps of the logits of its phantoms.

    Args:
        logits: (3, K).
        tolerance: Relative to the largest logit or 1.
    """
    return {"version": VERSION, "tolerance": tolerance, "logits": logits.tolist()}


def compare(record: Mapping[str, Any], logits: np.ndarray | None, path: object) -> Reproduction:
    """Compare logits with the recorded ones.

    Args:
        record: The result of :func:`recorded`.
        logits: Those of this machine; None if they are not finite.
        path: Where the record is, for messages.

    Raises:
        UserError: The record is damaged, or of other phantoms than those of this version.
    """
    if record.get("version") != VERSION:
        raise UserError(
            f"{path} has logits of phantoms of version {record.get('version')!r}; this version of softfree computes"
            f" version {VERSION}"
        )
    try:
        expected = np.asarray(record["logits"], dtype=np.float64)
        tolerance = float(record["tolerance"]) * max(1.0, float(np.abs(expected).max()))
        if not np.isfinite(expected).all() or (logits is not None and logits.shape != expected.shape):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} holds no logits of the {len(SIDES)} phantoms; copy it again") from None
    difference = float("nan") if logits is None else float(np.abs(logits - expected).max())
    return Reproduction(difference, tolerance)


def phantom_logits(model: Model) -> np.ndarray | None:
    """Compute the logits of an exported file, (3, K); None if they are not finite."""
    preprocessing = model.metadata.preprocessing
    with phantoms(preprocessing) as sources:
        logits = np.concatenate([model.logits(preprocessing.load(source)[None]) for source in sources])
    return logits if np.isfinite(logits).all() else None


def check_file(path: str | Path, *, threads: int | None = None) -> Reproduction:
    """Compare the logits that an exported file gives here with those it gave where it was exported.

    Raises:
        UserError: The file cannot be used, or has no recorded logits.
    """
    model = Model(path, threads=threads)
    if not model.metadata.phantoms:
        raise UserError(f"{path} has no logits to compare with: export the run again")
    return compare(model.metadata.phantoms, phantom_logits(model), path)


@contextmanager
def phantoms(preprocessing: Any) -> Iterator[list[Any]]:
    """Yield three sources for ``preprocessing.load``; slides and bags are files in a temporary folder.

    Args:
        preprocessing: Of any kind, of softfree or of this package.
    """
    if preprocessing.kind == "image":
        yield [_image(preprocessing, number) for number in range(len(SIDES))]
    elif preprocessing.kind == "case":  # of one image each, without a view
        with phantoms(preprocessing.images[0]) as sources:
            yield sources
    elif preprocessing.kind == "volume":
        yield [_volume(preprocessing, number) for number in range(len(SIDES))]
    else:
        write = {"slide": _write_slide, "bag": _write_bag}[preprocessing.kind]
        with tempfile.TemporaryDirectory(prefix="softfree_") as folder:
            yield [write(Path(folder), preprocessing, number) for number in range(len(SIDES))]


def pattern(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return uint8 of any shape: a gradient along each axis, blocks, and noise in each element."""
    axes = np.ix_(*(np.arange(side) for side in shape))
    steps = [axis * (100 // len(shape)) // max(1, side - 1) for axis, side in zip(axes, shape, strict=True)]
    blocks = _random(seed, (_CELLS,) * len(shape)) % 101
    cells = blocks[tuple(axis * _CELLS // side for axis, side in zip(axes, shape, strict=True))]
    return (sum(steps) + cells + _random(seed + 1000, shape) % 56).astype(np.uint8)


def _random(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return int64 numbers of 32 random bits, by SplitMix64."""
    count = int(np.prod(shape))
    bits = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 40)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(32)).astype(np.int64).reshape(shape)


def _channels(number: int, count: int, sides: tuple[int, ...], axis: int) -> np.ndarray:
    """Stack a pattern for each channel."""
    return np.stack([pattern(10 * number + channel, sides) for channel in range(count)], axis=axis)


def _image(preprocessing: Any, number: int) -> DecodedImage:
    height, width = (max(1, int(preprocessing.size * times)) for times in SIDES[number])
    channels = preprocessing.channels
    if number == 2:  # gray for a model of color images, color for one of gray images
        channels = 4 - channels
    pixels = _channels(number, channels, (height, width), axis=2)
    return DecodedImage(pixels, 0.0, 255.0, None, (), "phantom")


def _volume(preprocessing: Any, number: int) -> Any:
    from softfree_runtime.readers.volume import Volume

    times = (*SIDES[number], SIDES[number][0])
    shape = tuple(max(1, int(side * factor)) for side, factor in zip(preprocessing.shape, times, strict=True))
    target = preprocessing.spacing or (1.0, 1.0, 1.0)
    spacing = tuple(step / factor for step, factor in zip(target, times, strict=True))
    voxels = _channels(number, preprocessing.channels, shape, axis=0).astype(np.int16) * np.int16(8)
    if preprocessing.preset == "ct":
        voxels -= 1020  # from air to bone
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = (*spacing, 1.0)  # slices to the head, rows to the front, columns to the right
    return Volume(voxels, spacing, affine, float(voxels.min()), float(voxels.max()), (), "phantom")


def _write_slide(folder: Path, preprocessing: Any, number: int) -> SourceFile:
    """Write a white slide with a rectangle of tissue."""
    import tifffile

    height, width = (int(_SLIDE * times) for times in SIDES[number])
    pixels = np.full((height, width, 3), _WHITE, np.uint8)
    tissue = pixels[height // 8 : 7 * height // 8, width // 8 : 7 * width // 8]
    tissue[..., 0] = 130 + pattern(10 * number, tissue.shape[:2]) // 4
    tissue[..., 1] = 30 + pattern(10 * number + 1, tissue.shape[:2]) // 4
    tissue[..., 2] = 110 + pattern(10 * number + 2, tissue.shape[:2]) // 4
    mpp = min(preprocessing.mpp / 2, 50.0)  # the coarsest that a slide may have
    path = folder / f"phantom{number}.tiff"
    per_cm = (1e4 / mpp, 1e4 / mpp)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", resolution=per_cm, resolutionunit="CENTIMETER")
    return SourceFile(str(path), mpp)


def _write_bag(folder: Path, preprocessing: Any, number: int) -> SourceFile:
    """Write the features of tiles on a grid in the layout of softfree."""
    import h5py

    tiles = np.arange(int(_TILES * SIDES[number][0] * SIDES[number][1]))
    features = pattern(10 * number, (len(tiles), preprocessing.in_features))
    path = folder / f"phantom{number}.h5"
    with h5py.File(path, "w") as file:
        file["features"] = (features.astype(np.float32) - 128) / 64
        file["coords_mm"] = np.stack([tiles % _COLUMNS, tiles // _COLUMNS], axis=1) * _STEP
        file.attrs.update({"softfree_features": 1, "complete": True})
    return SourceFile(str(path))
