"""Multiply-adds of a forward pass, counted by PyTorch on a copy of the model without data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Count multiply-adds of matrix products and convolutions in a forward pass over an input of ``shape``.

    Nothing is computed, whatever the size.

    Returns:
        Their number; None for a model whose operations depend on values, which cannot run without data.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
        try:
            ghost(torch.zeros(shape, device="meta"))
        except RuntimeError:
            return None
    return counter.get_total_flops() // 2


def _product_flops(_sum: Sequence[int], left: Sequence[int], right: Sequence[int], **_: Any) -> int:
    return 2 * prod(left) * right[-1]


# FlopCounterMode counts no product that is added in place, such as an attention's sums over parts of the tokens.
_IN_PLACE = {torch.ops.aten.addmm_: _product_flops, torch.ops.aten.baddbmm_: _product_flops}
