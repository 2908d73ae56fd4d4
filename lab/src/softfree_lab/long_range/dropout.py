"""Dropout whose random numbers cost little on a CPU and depend on the step alone.

torch draws them one at a time by its Mersenne twister, which takes a quarter of a training step of these small models.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


class SteppedDropout(nn.Module):
    """Dropout with 16 random bits per number from numpy's SFC64; on other devices torch's own.

    Args:
        rate: Probability to drop, rounded to a multiple of 2^-16.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = round(rate * LEVELS)
        self.random = np.random.Generator(np.random.SFC64(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (...) to (...)."""
        rate = self.threshold / LEVELS
        if not self.training or not self.threshold:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, rate)
        bits = np.frombuffer(self.random.bytes(2 * x.numel()), np.uint16)
        kept = torch.from_numpy(bits >= self.threshold).view(x.shape)
        return x * kept.to(x.dtype).mul_(1 / (1 - rate))

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.threshold / LEVELS:.5f}"


def replace_dropout(model: nn.Module) -> None:
    """Replace all of torch's dropout layers in a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, SteppedDropout(child.p))


def begin_step(model: nn.Module, seed: int, step: int) -> None:
    """Draw what follows from the seed and the step, on every device, so that a resumed training draws the same."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))
    generator = np.random.Generator(np.random.SFC64((seed, step)))
    for module in model.modules():
        if isinstance(module, SteppedDropout):
            module.random = generator  # shared: its numbers must not repeat from layer to layer
