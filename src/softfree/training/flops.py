"""What a forward pass costs."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of products and convolutions in a forward pass over an input of ``shape``, such as (B, C, H, W).

    Counted by PyTorch on a copy without data, so that nothing is computed, whatever the size.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(torch.zeros(shape, device="meta"))
    return counter.get_total_flops() // 2
