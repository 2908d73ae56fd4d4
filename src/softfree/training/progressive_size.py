"""Progressive image size: small images in the first epochs, which cost less, and full size in the last ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from softfree.core.options import TrainOptions
from softfree_runtime.core.errors import UserError


@dataclass(frozen=True)
class SizeSchedule:
    """Side of the images in each epoch.

    Attributes:
        sides: In pixels, increasing to the full size. The smaller ones share the first half of the epochs.
        epochs: Number of epochs.
        restore_contrast: Scale a reduced image back to its mean square, for images that were each normalized to
            standard deviation 1.
    """

    sides: tuple[int, ...]
    epochs: int
    restore_contrast: bool = False

    @classmethod
    def of(cls, options: TrainOptions) -> SizeSchedule:
        """Double ``start_size`` until ``size`` is reached; without it, all epochs use the full size."""
        sides = []
        if options.start_size is not None:
            doublings = math.ceil(math.log2(options.size / options.start_size))
            sides = [options.start_size << number for number in range(doublings)]
        return cls((*sides, options.size), options.epochs, options.preset == "radiograph")

    def side(self, epoch: int) -> int:
        """Return the side of the images in an epoch, counted from 0."""
        smaller, half = len(self.sides) - 1, self.epochs // 2
        return self.sides[epoch * smaller // half] if epoch < half else self.sides[-1]

    def work(self, epoch: int) -> float:
        """Return the pixels of an image in an epoch as a fraction of the full size."""
        return (self.side(epoch) / self.sides[-1]) ** 2

    def __call__(self, images: Tensor, epoch: int) -> Tensor:
        """Resize images (B, C, full side, full side) to the side of an epoch."""
        side = self.side(epoch)
        if side == self.sides[-1]:
            return images
        small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        if self.restore_contrast:
            full_power, power = (batch.square().mean(dim=(1, 2, 3), keepdim=True) for batch in (images, small))
            small = small * (full_power / power.clamp(min=1e-12)).sqrt()
        return small

    def in_words(self) -> str:
        """Describe the sizes; empty if they are constant."""
        changes = [epoch for epoch in range(self.epochs) if epoch == 0 or self.side(epoch) != self.side(epoch - 1)]
        if len(changes) == 1:
            return ""
        return ", ".join(f"{self.side(epoch)} pixels from epoch {epoch + 1} on" for epoch in changes)


def check_start_size(options: TrainOptions, kind: str) -> None:
    """Refuse a start size out of range, or for images without a common size.

    Args:
        options: All settings.
        kind: Modality of the samples.
    """
    start = options.start_size
    if start is None:
        return
    if kind != "image" or options.resize_mode == "native":
        raise UserError("--start-size is for images of one size: not for volumes, slides, bags or --resize-mode native")
    if not 16 <= start < options.size:
        raise UserError(f"--start-size {start}: expected at least 16 pixels and less than --size {options.size}")
