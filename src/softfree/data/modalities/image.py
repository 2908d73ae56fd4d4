"""Preprocessing and augmentation of images, the same in training, prediction and export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, RandAdjustContrast, RandAffine, RandFlip, RandRotate90
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F
from torchvision.transforms import v2

from softfree.core.options import PresetName, ResizeMode, TrainOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers import read_image
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.sample_source import SampleSource

CHANNELS = {"radiograph": 1, "photo": 3, "microscopy": 3}
SMALL = 32  # side of a small copy, pixels
GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in JPEG


@dataclass(frozen=True)
class ImagePreprocessing:
    """Deterministic preprocessing of images, stored with a run and repeated wherever the run is used.

    Attributes:
        preset: See :class:`softfree.core.options.ImageOptions`.
        size: Side of the square in pixels.
        resize_mode: ``pad``, ``stretch``, ``crop`` or ``native``.
        channels: 1 or 3.
    """

    kind: ClassVar[str] = "image"

    preset: PresetName
    size: int
    resize_mode: ResizeMode
    channels: int

    @classmethod
    def create(
        cls, preset: PresetName, size: int, resize_mode: ResizeMode, channels: int | None = None
    ) -> ImagePreprocessing:
        """Fill in the preset's number of channels; UserError for sizes below 16 pixels."""
        if size < 16:
            raise UserError(f"--size {size}: expected at least 16 pixels")
        return cls(preset, size, resize_mode, channels or CHANNELS[preset])

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> ImagePreprocessing:
        """Create it from the options of a training run."""
        return cls.create(options.preset, options.size, options.resize_mode, options.channels)

    def __call__(self, image: DecodedImage) -> np.ndarray:
        """Return float32 (C, H, W): mean 0 and std about 1; H = W = ``size`` unless ``resize_mode`` is ``native``."""
        pixels = torch.from_numpy(image.unit()).permute(2, 0, 1)  # (C, H, W) in [0, 1]
        pixels = self._standardize(self._resize(_with_channels(pixels, self.channels), image.growth))
        return np.ascontiguousarray(self._square(pixels).numpy())

    def load(self, source: str | DecodedImage, frame: int | None = None) -> np.ndarray:
        """Read an image, unless it is already decoded, and prepare it; ReadError if it cannot be read."""
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: str | DecodedImage, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the rows and columns of the original."""
        image = source if isinstance(source, DecodedImage) else read_image(source, frame=frame)
        return self(image), image.pixels.shape[:2]

    def small_copy(self, sample: torch.Tensor) -> np.ndarray:
        """Reduce a prepared image (C, H, W) to a side of ``SMALL`` pixels; stretch it if sizes vary."""
        small = replace(self, size=SMALL, resize_mode="stretch" if self.resize_mode == "native" else self.resize_mode)
        return np.ascontiguousarray(small._square(small._resize(sample, (1.0, 1.0))).numpy(), np.float32).ravel()

    def augmentation(self) -> ImageAugmentation:
        """Return the augmentation of the preset."""
        return ImageAugmentation(self)

    def model_arguments(self) -> dict[str, Any]:
        """Return the model arguments that follow from the images."""
        return {"img_size": self.size, "in_chans": self.channels}

    def sample_bytes(self) -> int | None:
        """Return the bytes of a prepared image; None if sizes vary."""
        return None if self.resize_mode == "native" else self.channels * self.size**2 * 4

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a run's configuration."""
        return asdict(self)

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        fits = {
            "pad": f"scaled to a longest side of {self.size} pixels and padded to a square with the mean",
            "stretch": f"stretched to {self.size} x {self.size} pixels",
            "crop": f"scaled to a shortest side of {self.size} pixels and cropped to the center square",
            "native": "kept at their own size",
        }
        color = "gray" if self.channels == 1 else "RGB"
        scale = (
            "each image standardized to mean 0 and standard deviation 1"
            if self.preset == "radiograph"
            else "values standardized by the mean and standard deviation of ImageNet"
        )
        square = "" if self.resize_mode == "stretch" else "; pixels of unequal sides become square"
        return [f"Preset {self.preset}: {color}; {scale}.", f"Images {fits[self.resize_mode]}{square}."]

    def target(self, shape: tuple[int, int], growth: tuple[float, float]) -> tuple[int, int]:
        """Return the rows and columns that pixels are resized to, before padding and cropping.

        Args:
            shape: Rows and columns of the image.
            growth: See :attr:`softfree_runtime.readers.image.DecodedImage.growth`, which makes pixels square.
        """
        height, width = (side * times for side, times in zip(shape, growth, strict=True))
        if self.resize_mode == "native":
            return round(height), round(width)
        if self.resize_mode == "stretch":
            return self.size, self.size
        scale = self.size / (max if self.resize_mode == "pad" else min)(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _resize(self, pixels: torch.Tensor, growth: tuple[float, float]) -> torch.Tensor:
        shape = (pixels.shape[-2], pixels.shape[-1])
        target = self.target(shape, growth)
        return pixels if target == shape else _scale(pixels, target)

    def _standardize(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.preset == "radiograph":
            # Exposure and window differ from film to film; the floor keeps a blank film finite.
            return (pixels - pixels.mean()) / pixels.std(correction=0).clamp_min(1e-3)
        mean, std = _color_statistics(self.channels)
        return (pixels - mean) / std

    def _square(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.resize_mode in ("native", "stretch"):
            return pixels
        # Pads with 0, the mean; crops where the image is larger.
        return v2.functional.center_crop(pixels, [self.size, self.size])


class ImageAugmentation:
    """Random augmentation of a prepared image, a pure function of the image and a seed.

    Args:
        preprocessing: Preprocessing of the images, whose preset selects the augmentation.
    """

    def __init__(self, preprocessing: ImagePreprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment ``pixels`` (C, H, W); equal seeds give equal results in any process and order."""
        self._geometry.set_random_state(seed=seed)
        with plain_tensors(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._color(self._geometry(pixels))

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        return {
            "radiograph": "left-right flips, rotation by up to 10 degrees, shift by 5 %, scale by 10 %, contrast",
            "photo": "left-right flips, rotation by up to 30 degrees, shift by 10 %, scale by 20 %, color",
            "microscopy": "flips, quarter turns, rotation by up to 45 degrees, shift by 5 %, scale by 10 %, color",
        }[self.preprocessing.preset]

    @cached_property
    def _geometry(self) -> Compose:
        size = self.preprocessing.size
        native = self.preprocessing.resize_mode == "native"

        def affine(degrees: float, shift: float, scale: float) -> RandAffine:
            return RandAffine(
                prob=0.9,
                rotate_range=np.deg2rad(degrees),
                # MONAI expects pixels, which need a common size.
                translate_range=None if native else shift * size,
                scale_range=scale,
                padding_mode="zeros" if self.preprocessing.resize_mode == "pad" else "reflection",
            )

        return {
            "radiograph": lambda: Compose(
                [
                    RandFlip(prob=0.5, spatial_axis=1),
                    affine(10, 0.05, 0.1),
                    RandAdjustContrast(prob=0.5, gamma=(0.7, 1.4)),
                ]
            ),
            "photo": lambda: Compose([RandFlip(prob=0.5, spatial_axis=1), affine(30, 0.1, 0.2)]),
            "microscopy": lambda: Compose(
                [
                    RandFlip(prob=0.5, spatial_axis=1),
                    RandRotate90(prob=0.75, max_k=3),
                    affine(45, 0.05, 0.1),
                ]
            ),
        }[self.preprocessing.preset]()

    @cached_property
    def _color(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.preprocessing.preset == "radiograph" or self.preprocessing.channels != 3:
            return lambda pixels: pixels
        jitter = v2.ColorJitter(brightness=0.15, contrast=0.15, saturation=0.15)
        mean, std = _color_statistics(3)

        def jittered(pixels: torch.Tensor) -> torch.Tensor:
            unit = (pixels * std + mean).clamp(0, 1)
            return (jitter(unit) - mean) / std

        return jittered


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Disable MONAI's metadata tracking, which takes longer than the transforms."""
    tracked = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracked)


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize a float array (H, W, C) to a square."""
    scaled = _scale(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), (side, side))
    return scaled.permute(1, 2, 0).contiguous().numpy()


def _scale(pixels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Resize (C, H, W), bilinear with antialiasing."""
    if shape[1] == 1 < shape[0]:  # torch 2.15 resizes a single column wrongly, but not a single row
        return _scale(pixels.mT, shape[::-1]).mT
    return F.interpolate(pixels[None], shape, mode="bilinear", antialias=True)[0]


def _with_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    if pixels.shape[0] == channels:
        return pixels
    if channels == 1:
        return (pixels * pixels.new_tensor(GRAY)[:, None, None]).sum(0, keepdim=True)
    return pixels.expand(channels, -1, -1)


def _color_statistics(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (C, 1, 1) of ImageNet, averaged for one channel."""
    mean, std = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
    if channels == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return mean[:, None, None], std[:, None, None]


class SlideAugmentation(ImageAugmentation):
    """Flips, quarter turns and color, which need no interpolation."""

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        return "flips, quarter turns, color"

    @cached_property
    def _geometry(self) -> Compose:
        return Compose([RandFlip(prob=0.5, spatial_axis=1), RandRotate90(prob=0.75, max_k=3)])
