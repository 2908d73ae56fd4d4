"""Parameters and products from formulas against those of the real models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from softfree.attention import ATTENTIONS
from softfree.core.options import PoolName
from softfree.planning.work import Work, count_parameters, multiply_adds
from softfree_runtime.core.errors import UserError


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


@pytest.mark.parametrize("stem", ["patch", "conv", "pool"])
@pytest.mark.parametrize("size", [64, 250])  # below and above the turn to the Gram order; whole and cut patches
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_parameters_and_products_are_the_models(
    attention: str, size: int, stem: str, build: Callable[..., torch.nn.Module], pixels: Callable[..., Tensor]
) -> None:
    work = Work(model=f"{attention}_vit_nano_patch8", size=size, stem=stem, channels=1, classes=5)
    model = build(work, "meta").eval()
    assert count_parameters(work) == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), Products() as counted:
        model(pixels(work, "meta"))
    assert multiply_adds(work) == pytest.approx(counted.total, rel=1e-3)


@pytest.mark.parametrize("pool", get_args(PoolName))
def test_parameters_and_products_of_a_head(
    pool: str, build: Callable[..., torch.nn.Module], pixels: Callable[..., Tensor]
) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=64, stem="patch", pool=pool, classes=5, depth=1)
    model = build(work, "meta").eval()
    assert count_parameters(work) == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), Products() as counted:
        model(pixels(work, "meta"))
    left_out = 1 / work.shape.tokens if pool == "token" else 1e-3  # the class token has no formula
    assert multiply_adds(work) == pytest.approx(counted.total, rel=left_out)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "seqnorm_vit_tiny_patch61"}, "did you mean seqnorm_vit_tiny_patch16"),
        ({"size": 0}, "size 0"),
        ({"batch_size": -1}, "batch_size -1"),
        ({"mlp_chunk": 0}, "mlp_chunk 0"),
        ({"stem": "stone"}, "stem 'stone'"),
        ({"pool": "max"}, "pool 'max'"),
        ({"precision": "8"}, "precision '8'"),
    ],
)
def test_impossible_work_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Work(**wrong)
