from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from softfree.planning import plan
from softfree.planning.work import Work


@pytest.fixture
def build() -> Callable[..., torch.nn.Module]:
    """The model that a work is about."""

    def make(work: Work, device: str = "cpu") -> torch.nn.Module:
        with torch.device(device):
            model: Any = plan.build(work)
        model.set_grad_checkpointing(work.grad_checkpointing)
        return model.to(torch.bfloat16) if work.pure else model

    return make


@pytest.fixture
def pixels() -> Callable[..., Tensor]:
    """The images that a work is about."""

    def make(work: Work, device: str = "cpu") -> Tensor:
        dtype = torch.bfloat16 if work.pure else torch.float32
        return torch.ones(work.batch_size, *plan.sample_shape(work), device=device, dtype=dtype)

    return make
