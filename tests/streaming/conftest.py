"""Models with lively weights, their gradients, and memory in which a value that is read too early shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softfree.models import VisionTransformer


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.manual_seed(0)
    # torch.empty and its kin are then filled with NaN; some operators of GPUs have no deterministic form
    torch.use_deterministic_algorithms(True, warn_only=torch.get_default_device().type != "cpu")
    yield
    torch.use_deterministic_algorithms(False)


def make(**options: Any) -> VisionTransformer:
    """Make a small model in evaluation mode whose every parameter matters."""
    small: dict[str, Any] = {
        "img_size": 24,
        "patch_size": 4,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 3,
        "num_classes": 5,
    }
    model = VisionTransformer(**{**small, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def gradients(model: nn.Module, logits: Tensor) -> dict[str, Tensor]:
    """Differentiate a loss to which every logit matters differently."""
    model.zero_grad()
    (logits.float() if logits.dtype != torch.float64 else logits).cumsum(1).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture
def make_model() -> Callable[..., VisionTransformer]:
    return make


@pytest.fixture
def gradients_of() -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    return gradients
