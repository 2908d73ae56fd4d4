"""Traced costs against the formulas, which other tests hold against real models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softfree.attention import ATTENTIONS, Attention
from softfree.attention.base import Grid
from softfree.attention.cost import Shape
from softfree.planning.tracing import traced_cost
from softfree_runtime.core.errors import UserError

SHAPES = {
    "float32": Shape(batch=2, tokens=1024, width=128, heads=4, narrow=4, stream=4, autocast=False),
    "autocast": Shape(batch=1, tokens=1024, width=128, heads=4, narrow=2, stream=4, autocast=True),
    "pure": Shape(batch=2, tokens=1024, width=128, heads=4, narrow=2, stream=2, autocast=False),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["softmax", "sima", "galerkin"])
def test_traced_costs_are_those_of_the_formulas(name: str, shape: Shape) -> None:
    got, want = traced_cost(ATTENTIONS[name], shape), ATTENTIONS[name].cost(shape)
    assert want is not None
    assert got.parameters == want.parameters
    tensor = shape.bnc * shape.narrow
    kept = got.kept_tensors * tensor + got.kept_bytes
    assert kept == pytest.approx(want.kept_tensors * tensor + want.kept_bytes, rel=0.01)
    assert got.inference_tensors == pytest.approx(want.inference_tensors, rel=0.2)


class Deciding(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        return v if bool(q.sum() > 0) else k


def test_a_method_that_depends_on_values_must_give_its_cost() -> None:
    assert torch.is_tensor(Deciding(32, 2)(torch.zeros(1, 9, 32)))
    with pytest.raises(UserError, match=r"Deciding has no cost, and cannot be traced without data.*implement"):
        traced_cost(Deciding, SHAPES["float32"])
