"""Image corruptions at five strengths.

Lengths are relative to the image's shorter side, never in pixels, so that a strength has the same effect on a large and
a small copy of an image. The exception is JPEG, whose blocks are eight pixels of the stored image: a large image that
the run then reduces shows less of them, as it would in an archive.

The corruptions are those of Hendrycks and Dietterich, ICLR 2019 (arXiv:1903.12261), that occur in medical images; the
strengths are our own, from barely visible to severe.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms import v2

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""Maps pixels ``(H, W, C)``, float32 in [0, 1], and a strength of 1 to 5 to corrupted pixels.

The same state of the generator gives the same noise at every strength.
"""

STRENGTHS = (1, 2, 3, 4, 5)
LEVELS: dict[str, tuple[float, ...]] = {
    "blur": (0.2, 0.4, 0.8, 1.6, 3.2),
    "noise": (2, 4, 8, 16, 32),
    "contrast": (90, 75, 60, 45, 30),
    "jpeg": (60, 40, 20, 10, 5),
    "resolution": (256, 128, 64, 32, 16),
    "crop": (90, 80, 70, 60, 50),
}
UNITS = {
    "blur": "standard deviation, % of the shorter side",
    "noise": "standard deviation, % of black to white",
    "contrast": "% of the contrast kept",
    "jpeg": "JPEG quality",
    "resolution": "pixels left of the shorter side",
    "crop": "% of each side kept",
}
GRAINS = 224  # of noise along the shorter side: about one per pixel at the usual image size


def blur(pixels: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a Gaussian whose standard deviation is a fraction of the shorter side."""
    sigma = level("blur", strength) / 100 * min(pixels.shape[:2])
    return np.clip(gaussian_filter(pixels, (sigma, sigma, 0), truncate=3), 0, 1)


def noise(pixels: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise, the same to all channels, so that a gray image stored as color stays gray.

    Its grains are 1/224 of the shorter side: single-pixel noise would average out when a large image is reduced, and
    remain in a small one.
    """
    height, width = pixels.shape[:2]
    scale = GRAINS / min(height, width)
    grains = rng.standard_normal((max(1, round(height * scale)), max(1, round(width * scale)), 1), dtype=np.float32)
    # Nearest keeps the standard deviation of grains larger than a pixel; smaller ones are averaged over the pixel.
    interpolation = v2.InterpolationMode.NEAREST_EXACT if scale < 1 else v2.InterpolationMode.BILINEAR
    return np.clip(pixels + level("noise", strength) / 100 * _scaled(grains, (height, width), interpolation), 0, 1)


def contrast(pixels: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Move all values toward the image's mean gray, which also desaturates colors."""
    return _array(v2.functional.adjust_contrast(_tensor(pixels), level("contrast", strength) / 100))


def jpeg(pixels: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Write and read as JPEG, which has 8 bits per channel: deeper images lose precision, too."""
    stored = np.round(pixels * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(stored[..., 0] if stored.shape[-1] == 1 else stored).save(
        file, "JPEG", quality=int(level("jpeg", strength))
    )
    return np.asarray(Image.open(file), np.float32).reshape(pixels.shape) / 255


def resolution(pixels: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Downsample to a number of pixels on the shorter side and upsample; a smaller image is unchanged."""
    height, width = pixels.shape[:2]
    scale = level("resolution", strength) / min(height, width)
    if scale >= 1:
        return pixels
    small = _scaled(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))
    return np.clip(_scaled(small, (height, width)), 0, 1)


def crop(pixels: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Crop the center, the same fraction of both sides; the model sees it enlarged unless it runs at native size."""
    share = level("crop", strength) / 100
    kept = [max(1, round(side * share)) for side in pixels.shape[:2]]
    return _array(v2.functional.center_crop(_tensor(pixels), kept))


CORRUPTIONS: dict[str, Corruption] = {
    "blur": blur,
    "noise": noise,
    "contrast": contrast,
    "jpeg": jpeg,
    "resolution": resolution,
    "crop": crop,
}


def level(name: str, strength: int) -> float:
    """Return the value of ``strength`` in the corruption's unit."""
    return dict(zip(STRENGTHS, LEVELS[name], strict=True))[strength]


def _scaled(
    pixels: np.ndarray,
    shape: tuple[int, int],
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR,
) -> np.ndarray:
    return _array(v2.functional.resize(_tensor(pixels), list(shape), interpolation, antialias=True))


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)  # (C, H, W)


def _array(pixels: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
