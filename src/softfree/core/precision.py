"""The arithmetic of products, by the name that options give it."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def products_in(precision: str, device: torch.device | str = "cpu") -> torch.autocast:
    """Give the context in which products are calculated in ``precision``, a key of ``DTYPES``, as training's are.

    Weights stay as they are; sums over tokens and statistics stay in float32 (see :mod:`softfree.attention`).
    """
    dtype = DTYPES[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)
