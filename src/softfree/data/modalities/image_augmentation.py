"""timm's augmentation of photographs: random crops of the whole image, a policy such as RandAugment, random erasing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from softfree.data.modalities.image import ImagePreprocessing
from softfree_runtime.core.errors import UserError


class PolicyAugmentation:
    """Augmentation as in ImageNet recipes (Touvron et al. 2021, DeiT), a pure function of image and seed.

    It starts from the whole image at its own size, see :func:`whole`.

    Args:
        preprocessing: Preprocessing in evaluation; the result has the same size, mean and standard deviation.
        policy: Timm's name, such as "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2" or "original".
        erasing: Probability of erasing a rectangle.

    Raises:
        UserError: timm does not know the policy, or the images are gray.
    """

    def __init__(self, preprocessing: ImagePreprocessing, policy: str, erasing: float) -> None:
        if preprocessing.preset == "radiograph" or preprocessing.channels != 3:
            raise UserError("--auto-augment is for color: use it with --preset photo or microscopy and 3 channels")
        self.preprocessing, self.policy, self.erasing = preprocessing, policy, erasing
        try:
            _ = self._change
        except (AssertionError, KeyError, ValueError):
            raise UserError(
                f"--auto-augment {policy}: timm has no such policy; expected, for example, rand-m9-mstd0.5-inc1"
            ) from None

    def __call__(self, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a whole image (3, any H, any W) to (3, size, size); equal seeds give equal results."""
        mean, std = _statistics()
        unit = (pixels * std + mean).clamp(0, 1)
        image = Image.fromarray((unit * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        with _seeded(seed):
            return self._change(image)

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        return f"random crops of 8 to 100 % of the image, left-right flips, {self.policy}, erasing {self.erasing:g}"

    @cached_property
    def _change(self) -> Any:
        return create_transform(
            self.preprocessing.size,
            is_training=True,
            auto_augment=self.policy,
            re_prob=self.erasing,
            re_mode="pixel",
            interpolation="bicubic",
        )


def whole(preprocessing: ImagePreprocessing) -> ImagePreprocessing:
    """Return the same preprocessing without resizing."""
    return replace(preprocessing, resize_mode="native")


def _statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (3, 1, 1) of the preprocessing and of timm."""
    mean, std = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
    return mean[:, None, None], std[:, None, None]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the three generators that timm uses, and restore them afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
