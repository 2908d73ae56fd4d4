"""Mixup and CutMix (Zhang et al. 2018, Yun et al. 2019), image by image.

Partner and share of each image are a function of seed, epoch and image alone, so that they do not depend on how a step
is cut into batches: they act with batches of one and of any odd number, with accumulated gradients and on any number of
devices alike. timm's mix a batch with itself and need it to be even.
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
        samples: the images, with class numbers as targets, all of one shape.
        classes: K.
        partners: numbers of the images to mix with: those that can be read.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, each image has one of them with equal chance.
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
        rng = np.random.default_rng((self.samples.seed, epoch, index, 1))  # 1: not the draws of its augmentation
        first = self.samples[epoch, index]
        second = self.samples[epoch, self.partners[int(rng.integers(len(self.partners)))]]
        one, other = first["image"], second["image"]
        if one.shape != other.shape:
            raise UserError(
                f"--mixup and --cutmix need images of one shape; got {tuple(one.shape)} and {tuple(other.shape)}"
            )
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        if cut:
            top, bottom, left, right = _box(one.shape, 1 - share, rng)
            image = one.clone()
            image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / one[0].numel()  # a box at the edge is smaller
        else:
            image = share * one + (1 - share) * other
        target = torch.zeros(self.classes)
        target[int(first["target"])] += share
        target[int(second["target"])] += 1 - share
        return Sample(image=image, target=target, index=index)


def _box(shape: Sequence[int], area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, bottom, left and right of a box about any pixel, of at most a share ``area`` of (C, H, W)."""
    ends: list[int] = []
    for side in shape[1:]:
        half, middle = int(side * area**0.5) // 2, int(rng.integers(side))
        ends += [max(0, middle - half), min(side, middle + half)]
    return ends[0], ends[1], ends[2], ends[3]
