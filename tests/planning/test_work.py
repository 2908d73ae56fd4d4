"""Parameters from formulas against those of the real models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from softfree.attention import ATTENTIONS
from softfree.core.options import PoolName
from softfree.planning.work import Work, count_parameters
from softfree_runtime.core.errors import UserError


@pytest.mark.parametrize("stem", ["patch", "conv", "pool"])
@pytest.mark.parametrize("size", [64, 250])  # below and above the turn to the Gram order; whole and cut patches
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_parameters_are_the_models(attention: str, size: int, stem: str, build: Callable[..., torch.nn.Module]) -> None:
    work = Work(model=f"{attention}_vit_nano_patch8", size=size, stem=stem, channels=1, classes=5)
    model = build(work, "meta")
    assert count_parameters(work) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("pool", get_args(PoolName))
def test_parameters_of_a_head(pool: str, build: Callable[..., torch.nn.Module]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=64, stem="patch", pool=pool, classes=5, depth=1)
    model = build(work, "meta")
    assert count_parameters(work) == sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_a_model_of_cases(build: Callable[..., torch.nn.Module]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=64, images=3, depth=1)
    assert count_parameters(work) == sum(parameter.numel() for parameter in build(work, "meta").parameters())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "seqnorm_vit_tiny_patch61"}, "did you mean seqnorm_vit_tiny_patch16"),
        ({"size": 0}, "size 0"),
        ({"batch_size": -1}, "batch_size -1"),
        ({"mlp_chunk": 0}, "mlp_chunk 0"),
        ({"images": 0}, "images 0"),
        ({"stem": "stone"}, "stem 'stone'"),
        ({"pool": "max"}, "pool 'max'"),
        ({"precision": "8"}, "precision '8'"),
    ],
)
def test_impossible_work_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Work(**wrong)
