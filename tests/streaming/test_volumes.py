"""A volume that streams against the same volume in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softfree.models.vit3d import VolumeTransformer
from softfree.streaming import Streaming, stream_forward, streamed
from softfree_runtime.core.errors import UserError

GradientsOf = Callable[[nn.Module, Tensor], dict[str, Tensor]]


def make(**options: Any) -> VolumeTransformer:
    small = {"img_size": (12, 16, 16), "patch_size": (2, 4, 4), "num_classes": 4, "embed_dim": 24, "depth": 2}
    model = VolumeTransformer(**{**small, "num_heads": 3, **options}).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("shape", [(1, 12, 16, 16), (2, 9, 10, 14)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "token", "pos": "learn"},
        {"pos": "learn"},
        {"pool": "topk"},
        {"stem": "conv", "pos": "none"},
        {"stem": "conv", "patch_size": (1, 4, 4)},
        {"stem": "pool", "patch_size": (2, 4, 4)},
        {"stem": "pool", "patch_size": (4, 4, 2)},
        {"stem": "conv", "patch_size": (4, 2, 2), "class_token": True},
    ],
)
def test_as_in_memory(options: dict[str, Any], shape: tuple[int, ...], gradients_of: GradientsOf) -> None:
    model, x = make(**options), torch.randn(1, *shape, dtype=torch.float64)
    _, grid = model.patch_embed(x)
    some = torch.rand(1, grid[0] * grid[1] * grid[2]) < 0.6
    # Each mask in parts of both sizes, in one volume or the other.
    for mask, chunk in zip((None, some), (1, 30) if shape[0] == 1 else (30, 1), strict=True):
        logits = model(x, mask)
        got = streamed(model, x, Streaming(chunk=chunk), mask)
        torch.testing.assert_close(got, logits, rtol=1e-8, atol=1e-9)
        want, found = gradients_of(model, logits), gradients_of(model, got)
        assert found.keys() == want.keys()
        for name, grad in want.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-6, atol=1e-7, msg=name)


def test_arrays() -> None:
    model, x = make(), torch.randn(1, 12, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(stream_forward(model, x.numpy(force=True)), model(x[None]))


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="channels, depth"):
        stream_forward(make(), torch.randn(12, 16, 16))
    with pytest.raises(UserError, match="96 booleans"):
        stream_forward(make(), torch.randn(1, 12, 16, 16), mask=torch.ones(95, dtype=torch.bool))
