"""How the images of a step are cut into batches of devices, so that a step is the same however it is cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """The images after which the weights change once.

    Attributes:
        images: number, over all batches and devices.
        batch_size: how many a device takes at once.
        rank: this device.
        world: number of devices.
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
        """Batches of a device in a step; the last is smaller where the step is that of a short epoch."""
        return -(-(self.images // self.world) // self.batch_size)

    def epoch(self, images: int) -> int:
        """Images of an epoch of whole steps, out of ``images``."""
        return max(1, images // self.images) * self.images

    def number(self, batch: int) -> int:
        """The step, from 0, of a batch's number within an epoch."""
        return batch // self.batches

    def begins(self, batch: int) -> bool:
        """Whether a batch is the first of its step."""
        return batch % self.batches == 0

    def rows(self, batch: int, count: int) -> Tensor:
        """Places ``(count,)`` within the step of the images of a batch of this device."""
        first = batch % self.batches * self.batch_size
        return torch.arange(first, first + count) * self.world + self.rank

    def share(self, count: int) -> float:
        """What a batch's mean loss is multiplied by, so that the mean over a step's batches is that of its images."""
        return count * self.batches * self.world / self.images


def seed_step(*key: int) -> None:
    """Make torch's random numbers a function of seed, epoch, number of the step or batch, and device alone."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
