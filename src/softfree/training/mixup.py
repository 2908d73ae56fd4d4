"""Mixup and CutMix (Zhang et al. 2018, Yun et al. 2019), image by image.

Each image's partner and mixing ratio depend only on seed, epoch and image, not on how a step is split into batches:
mixing works with any batch size, accumulated gradients and any number of devices. timm mixes within a batch, whose size
must be even.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils import data

from softfree.data.dataset import Sample, SampleDataset
from softfree_runtime.core.errors import UserError


class MixedSamples(data.Dataset):
    """Training samples, each mixed with another; targets become class probabilities ``(K,)``.

    Args:
        samples: Images of one shape, with class numbers as targets.
        classes: K.
        partners: Indices of the readable images, to mix with.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none. With both, each image gets one of them with equal probability.
    """

    def __init__(
        self, samples: SampleDataset, classes: int, partners: Sequence[int], mixup: float, cutmix: float
    ) -> None:
        self.samples, self.classes, self.partners = samples, classes, partners
        self.mixup, self.cutmix = mixup, cutmix
        self.failed = samples.failed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the image of ``(epoch, number)``, mixed."""
        epoch, index = key
        rng = np.random.default_rng((self.samples.seed, epoch, index, 1))  # 1: independent of its augmentation
        first = self.samples[epoch, index]
        second = self.samples[epoch, self.partners[int(rng.integers(len(self.partners)))]]
        image, partner = first["image"], second["image"]
        if image.shape != partner.shape:
            raise UserError(
                f"--mixup and --cutmix need images of one shape; got {tuple(image.shape)} and {tuple(partner.shape)}"
            )
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        ratio = float(rng.beta(alpha, alpha))
        if cut:
            top, bottom, left, right = _box(image.shape, 1 - ratio, rng)
            image = image.clone()
            image[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
            ratio = 1 - (bottom - top) * (right - left) / image[0].numel()  # a box at the border is smaller
        else:
            image = ratio * image + (1 - ratio) * partner
        target = torch.zeros(self.classes)
        target[int(first["target"])] += ratio
        target[int(second["target"])] += 1 - ratio
        return Sample(image=image, target=target, index=index)


def _box(shape: Sequence[int], area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, bottom, left and right of a box at a random pixel, at most a fraction ``area`` of (C, H, W)."""
    ends: list[int] = []
    for side in shape[1:]:
        half, middle = int(side * area**0.5) // 2, int(rng.integers(side))
        ends += [max(0, middle - half), min(side, middle + half)]
    return ends[0], ends[1], ends[2], ends[3]
