"""What a forward pass costs."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(model: nn.Module, shape: tuple[int, int, int, int]) -> int:
    """Multiply-adds of the matrix products and convolutions of a forward pass over pixels of ``shape`` (B, C, H, W).

    Counted by PyTorch on a copy without data, so that nothing is computed, whatever the size.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(torch.zeros(shape, device="meta"))
    return counter.get_total_flops() // 2
