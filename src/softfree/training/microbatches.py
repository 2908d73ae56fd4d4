"""Splitting the images of a step into batches and across devices, with the same result however it is split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """The images of one optimizer step.

    Attributes:
        images: Number over all batches and devices.
        batch_size: How many a device takes at once.
        rank: This device.
        world: Number of devices.
    """

    images: int
    batch_size: int
    rank: int = 0
    world: int = 1

    @classmethod
    def cut(cls, images: int, batch_size: int, grad_accum: int, rank: int = 0, world: int = 1) -> Step:
        """Cut a step of ``batch_size`` times ``grad_accum`` images, or of all ``images`` of an epoch that has fewer."""
        step = min(batch_size * grad_accum, max(1, images // world) * world)
        return cls(step, min(max(1, batch_size // world), step // world), rank, world)

    @property
    def batches(self) -> int:
        """Batches per device and step; the last one may be smaller in a short epoch."""
        return -(-(self.images // self.world) // self.batch_size)

    def epoch(self, images: int) -> int:
        """Number of images in an epoch of whole steps, out of ``images``."""
        return max(1, images // self.images) * self.images

    def number(self, batch: int) -> int:
        """Step number, from 0, of a batch number within an epoch."""
        return batch // self.batches

    def begins(self, batch: int) -> bool:
        """Whether a batch is the first of its step."""
        return batch % self.batches == 0

    def rows(self, batch: int, count: int) -> Tensor:
        """Positions ``(count,)`` within the step of the images of a batch on this device."""
        first = batch % self.batches * self.batch_size
        return torch.arange(first, first + count) * self.world + self.rank

    def share(self, count: int) -> float:
        """Factor for a batch's mean loss that makes the mean over a step's batches the mean over its images."""
        return count * self.batches * self.world / self.images


def seed_step(*key: int) -> None:
    """Make torch's random numbers a function of only seed, epoch, step or batch number, and device."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
