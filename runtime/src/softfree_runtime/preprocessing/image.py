"""Preprocessing of images for exported models, in numpy: the reference for the JSON in a file's metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from softfree_runtime.readers import DecodedImage, read_image

GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in JPEG
# Minimum standard deviation of an image, so that a blank one stays finite.
FLOOR = 1e-3


@dataclass(frozen=True)
class NumpyImagePreprocessing:
    """Equal within 1e-4 to :class:`softfree.data.modalities.image.ImagePreprocessing`, without torch.

    Attributes:
        size: Side of the square in pixels.
        resize_mode: ``pad``, ``stretch``, ``crop`` or ``native``.
        channels: 1 or 3.
        mean: Mean of each channel, subtracted from values in [0, 1]; None for the mean of the image itself.
        std: Standard deviation of each channel, by which they are then divided; None for that of the image itself.
    """

    kind: ClassVar[str] = "image"

    size: int
    resize_mode: str
    channels: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> NumpyImagePreprocessing:
        """Create it from :meth:`to_dict`; KeyError, TypeError or ValueError for anything else."""
        if fields["resize_mode"] not in ("pad", "stretch", "crop", "native") or fields["channels"] not in (1, 3):
            raise ValueError(f"resize_mode {fields['resize_mode']!r} with {fields['channels']!r} channels")
        mean, std = (None if fields[key] is None else tuple(map(float, fields[key])) for key in ("mean", "std"))
        return cls(int(fields["size"]), fields["resize_mode"], fields["channels"], mean, std)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    def load(self, source: str | DecodedImage, frame: int | None = None) -> np.ndarray:
        """Read an image, unless it is already decoded, and prepare it; ReadError if it cannot be read."""
        return self(source if isinstance(source, DecodedImage) else read_image(source, frame=frame))

    def __call__(self, image: DecodedImage) -> np.ndarray:
        """Return float32 (C, H, W): mean 0 and std about 1; H = W = ``size`` unless ``resize_mode`` is ``native``."""
        pixels = _with_channels(np.ascontiguousarray(image.unit().transpose(2, 0, 1)), self.channels)
        pixels = self._standardize(resize(pixels, *self._target(pixels.shape[1:], image.growth)))
        if self.resize_mode in ("pad", "crop"):
            pixels = _center(_center(pixels, 1, self.size), 2, self.size)
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def _target(self, shape: tuple[int, ...], growth: tuple[float, float]) -> tuple[int, int]:
        height, width = (side * times for side, times in zip(shape, growth, strict=True))
        if self.resize_mode == "native":
            return round(height), round(width)
        if self.resize_mode == "stretch":
            return self.size, self.size
        scale = self.size / (max if self.resize_mode == "pad" else min)(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _standardize(self, pixels: np.ndarray) -> np.ndarray:
        if self.mean is None or self.std is None:
            wide = pixels.astype(np.float64)
            return ((pixels - wide.mean()) / max(wide.std(), FLOOR)).astype(np.float32)
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if len(pixels) == channels:
        return pixels
    if channels == 1:
        return (pixels * np.asarray(GRAY, np.float32)[:, None, None]).sum(0, keepdims=True)
    return np.broadcast_to(pixels, (channels, *pixels.shape[1:]))


def _center(pixels: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Pad one axis with 0, the mean, or crop it to its center."""
    side = pixels.shape[axis]
    if side < size:
        before = (size - side) // 2
        return np.pad(pixels, [(before, size - side - before) if number == axis else (0, 0) for number in range(3)])
    start = round((side - size) / 2)  # half to even, as torchvision rounds
    return pixels.take(range(start, start + size), axis)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize float32 ``(C, H, W)`` to ``(C, height, width)``, bilinear with antialiasing, as torch does."""
    return _along(_along(pixels, 2, width), 1, height)


def _along(pixels: np.ndarray, axis: int, new: int) -> np.ndarray:
    """Resize one axis, one kernel tap at a time, which avoids a dense weight matrix."""
    old = pixels.shape[axis]
    if new == old:
        return pixels
    first, weights = _taps(old, new)
    out = np.zeros([new if number == axis else side for number, side in enumerate(pixels.shape)], np.float32)
    shape = [-1 if number == axis else 1 for number in range(pixels.ndim)]
    for tap in range(weights.shape[1]):
        # Beyond the end the weight is 0, so any pixel will do.
        neighbor = pixels.take(np.minimum(first + tap, old - 1), axis)
        neighbor *= weights[:, tap].reshape(shape)
        out += neighbor
    return out


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first old pixel ``(new,)`` and the weights ``(new, taps)`` of each new pixel: a triangle filter."""
    # In float32, as in torch: other rounding would give other weights far out in a large image.
    scale = np.float32(old) / np.float32(new)
    reach = max(scale, np.float32(1))
    center = scale * (np.arange(new, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((center - reach + np.float32(0.5)).astype(np.int64), 0)
    end = np.minimum((center + reach + np.float32(0.5)).astype(np.int64), old)
    pixel = first[:, None] + np.arange(int((end - first).max()))
    distance = np.abs(pixel.astype(np.float32) - center[:, None] + np.float32(0.5)) / reach
    weights = np.maximum(1 - distance, 0)
    weights[pixel >= end[:, None]] = 0
    return first, weights / weights.sum(1, keepdims=True)
