"""What a forward pass costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from softfree.attention import ATTENTIONS
from softfree.core.flops import multiply_adds
from softfree.models import create_model


class Products(TorchDispatchMode):
    """Count the multiply-adds of products and convolutions, those in place and into a given tensor among them."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:] if len(args) >= 2 else args
            self.total += left.numel() * right.shape[-1]
        elif name == "convolution":
            self.total += out.numel() * args[1][0].numel()
        elif "scaled_dot_product" in name:
            query, key = args[:2]
            self.total += 2 * query.numel() * key.shape[-2]
        return out


@pytest.mark.parametrize("size", [64, 250])  # SeqNorm adds products in place for the larger one
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_every_product_of_a_model_is_counted(attention: str, size: int) -> None:
    with torch.device("meta"):
        model = create_model(f"{attention}_vit_nano_patch8", img_size=size, in_chans=1, num_classes=5, depth=1).eval()
    with torch.no_grad(), Products() as counted:
        model(torch.ones(1, 1, size, size, device="meta"))
    assert multiply_adds(model, (1, 1, size, size)) == counted.total > 1e6


def test_products_and_convolutions_are_counted_on_a_model_that_stays_where_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Flatten(2), nn.Linear(256, 5))
    assert multiply_adds(model, (2, 3, 64, 64)) == 2 * (16 * 16 * 8 * 3 * 4 * 4 + 8 * 256 * 5)
    assert next(model.parameters()).device.type == "cpu"
    assert model.training


def test_what_depends_on_values_is_unknown() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.mT if bool(x.sum() > 0) else x

    assert multiply_adds(Deciding(), (3, 4, 4)) is None
