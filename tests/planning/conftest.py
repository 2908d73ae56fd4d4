from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from softfree.models import create_model
from softfree.planning.work import Work


@pytest.fixture
def build() -> Callable[..., torch.nn.Module]:
    """The model that a work is about."""

    def make(work: Work, device: str = "cpu") -> torch.nn.Module:
        with torch.device(device):
            model = create_model(
                work.model,
                img_size=work.size,
                in_chans=work.channels,
                num_classes=work.classes,
                stem=work.stem,
                pool=work.pool,
                mlp_chunk=work.mlp_chunk,
                depth=work.dimensions["depth"],
            )
        model.set_grad_checkpointing(work.grad_checkpointing)
        return model.to(torch.bfloat16) if work.pure else model

    return make


@pytest.fixture
def pixels() -> Callable[..., Tensor]:
    """The images that a work is about."""

    def make(work: Work, device: str = "cpu") -> Tensor:
        dtype = torch.bfloat16 if work.pure else torch.float32
        return torch.ones(work.batch_size, work.channels, work.size, work.size, device=device, dtype=dtype)

    return make
