"""Random changes of prepared volumes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandFlip,
    RandGaussianNoise,
    RandScaleIntensity,
    Transform,
)

from softfree.data.modalities.image import plain_tensors

_DEGREES = 10.0
_SHIFT = 0.05
_SCALE = 0.1
_ISOTROPIC = 1.1


class VolumeAugmentation:
    """Random changes of a prepared volume, a pure function of the volume and a seed.

    Args:
        preset: ``mr`` or ``ct``.
        shape: voxels of the volumes: slices, rows, columns.
        spacing: millimeters between them, None where they differ from volume to volume.

    Rotation is in voxels, so that it keeps the anatomy's shape only where voxels are cubes; elsewhere it stays within
    the slices. Left-right flips are for ``mr`` alone: in CT of the trunk the side of heart and liver carries meaning.
    """

    def __init__(
        self, preset: str, shape: tuple[int, int, int], spacing: tuple[float, float, float] | None = None
    ) -> None:
        self.preset, self.shape, self.spacing = preset, shape, spacing

    def __call__(self, voxels: torch.Tensor, seed: int) -> torch.Tensor:
        """Change ``voxels`` (C, D, H, W), equal seeds giving equal results in any process and order."""
        self._changes.set_random_state(seed=seed)
        with plain_tensors(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return torch.as_tensor(self._changes(voxels))

    def in_words(self) -> str:
        """What is changed, for people."""
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
