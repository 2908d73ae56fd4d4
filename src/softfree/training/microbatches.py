"""Splitting the images of a step into batches and across devices; the result does not depend on the split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """The images of one optimizer step.

    Attributes:
        images: Number of images over all batches and devices.
        batch_size: Images per batch of one device.
        rank: Rank of this device.
        world: Number of devices.
    """

    images: int
    batch_size: int
    rank: int = 0
    world: int = 1

    @classmethod
    def cut(cls, images: int, batch_size: int, grad_accum: int, rank: int = 0, world: int = 1) -> Step:
        """Cut a step of ``batch_size`` times ``grad_accum`` images, or of all ``images`` of an epoch with fewer."""
        step = min(batch_size * grad_accum, max(1, images // world) * world)
        return cls(step, min(max(1, batch_size // world), step // world), rank, world)

    @property
    def batches(self) -> int:
        """Number of batches per device and step; in a short epoch, the last one may be smaller."""
        return -(-(self.images // self.world) // self.batch_size)

    def epoch(self, images: int) -> int:
        """Return the number of images in an epoch of whole steps, out of ``images``."""
        return max(1, images // self.images) * self.images

    def number(self, batch: int) -> int:
        """Return the number of the step, from 0, that a batch of an epoch belongs to."""
        return batch // self.batches

    def begins(self, batch: int) -> bool:
        """Whether a batch is the first of its step."""
        return batch % self.batches == 0

    def rows(self, batch: int, count: int) -> Tensor:
        """Return the positions ``(count,)`` within the step of the images of a batch on this device."""
        first = batch % self.batches * self.batch_size
        return torch.arange(first, first + count) * self.world + self.rank

    def share(self, count: int) -> float:
        """Return the factor for a batch's mean loss with which the mean over batches is the mean over images."""
        return count * self.batches * self.world / self.images


def seed_step(*key: int) -> None:
    """Make torch's random numbers a function of only seed, epoch, step or batch number, and device."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
