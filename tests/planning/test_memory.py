"""What autograd keeps, from formulas, against what it does keep with the real models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from softfree.attention import ATTENTIONS
from softfree.core.options import PoolName
from softfree.planning.memory import TRAINING, kept_bytes, memory, training_peak
from softfree.planning.work import Work


@pytest.fixture
def autograd_keeps(build: Callable[..., torch.nn.Module], pixels: Callable[..., Tensor]) -> Callable[[Work], int]:
    def count(work: Work) -> int:
        model = build(work).train()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
            return tensor

        autocast = torch.autocast("cpu", torch.bfloat16, enabled=work.shape.autocast)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
            model(pixels(work))
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return count


@pytest.mark.parametrize(
    "choice", [{}, {"pure": True, "precision": "bf16"}, {"precision": "bf16"}, {"batch_size": 2}], ids=str
)
@pytest.mark.parametrize("size", [64, 250])
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_kept_bytes_are_those_that_autograd_keeps(
    attention: str, size: int, choice: dict[str, Any], autograd_keeps: Callable[[Work], int]
) -> None:
    work = Work(model=f"{attention}_vit_nano_patch8", size=size, stem="conv", depth=2, **choice)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [64, 250])
def test_maxima_keep_their_places(size: int, precision: Any, autograd_keeps: Callable[[Work], int]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=size, stem="pool", precision=precision)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)


@pytest.mark.parametrize(
    "choice", [{}, {"pure": True, "precision": "bf16"}, {"precision": "bf16", "batch_size": 2}], ids=str
)
@pytest.mark.parametrize("pool", get_args(PoolName))
def test_what_a_head_keeps(pool: str, choice: dict[str, Any], autograd_keeps: Callable[[Work], int]) -> None:
    model: dict[str, Any] = {"model": "seqnorm_vit_nano_patch8", "size": 128, "stem": "patch", "depth": 1}
    work = Work(pool=pool, **model, **choice)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)


@pytest.mark.parametrize("choice", [{"grad_checkpointing": True}, {"mlp_chunk": 256}, {"stem": "patch"}], ids=str)
def test_what_is_computed_again_is_not_kept(choice: dict[str, Any], autograd_keeps: Callable[[Work], int]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=256, **choice)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)
    assert kept_bytes(work) < kept_bytes(Work(model=work.model, size=256))


@pytest.mark.parametrize("choice", [{}, {"precision": "bf16", "batch_size": 2}, {"mlp_chunk": 256}], ids=str)
@pytest.mark.parametrize("images", [1, 3])
def test_what_a_case_keeps(images: int, choice: dict[str, Any], autograd_keeps: Callable[[Work], int]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=128, images=images, depth=2, **choice)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)


def test_the_stem_of_a_case_is_computed_again_image_by_image(autograd_keeps: Callable[[Work], int]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=128, images=4, depth=2, grad_checkpointing=True)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)
    more = replace(work, images=8)
    assert memory(more).temporaries < 2 * memory(work).temporaries


def test_blocks_that_the_system_maps_leave_no_gaps() -> None:
    work = Work(model="seqnorm_vit_tiny_patch16", size=1024, grad_checkpointing=True)
    one = 4096 * 192 * 4  # the kept tensors of the attention and of the stream, and two of the MLP, four times as wide
    units = work.attention.kept_tensors + 1 + 1 + 2 * 4
    assert memory(work).gaps == pytest.approx(0.7 * 12 * units * one, abs=1)
    wider = replace(work, size=2048)
    assert memory(wider).gaps == pytest.approx(0.7 * 12 * (units - 8) * 4 * one, abs=1)
    assert memory(replace(work, images=20)).gaps == 0


@pytest.mark.parametrize("choice", [{}, {"grad_checkpointing": True}, {"inference": True}, {"device": "gpu"}], ids=str)
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_larger_images_take_more(attention: str, choice: dict[str, Any]) -> None:
    # From the switch to the Gram order on, the only one after which less is kept.
    works = [Work(model=f"{attention}_vit_tiny_patch16", size=size, **choice) for size in range(288, 4096, 112)]
    plans = [memory(work) for work in works]
    # Blocks of 32 MiB leave no gaps, of which recomputed activations have many.
    totals = [plan.total - (plan.gaps if "grad_checkpointing" in choice else 0) for plan in plans]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1] / 2


def test_training_needs_its_libraries_and_a_checkpoint_besides_a_step() -> None:
    work = Work(model="seqnorm_vit_tiny_patch16", size=128, channels=1, batch_size=16, precision="bf16")
    step = memory(work)
    assert training_peak(work) == step.total + TRAINING + 5 * step.weights
    assert training_peak(replace(work, device="gpu")) == memory(replace(work, device="gpu")).total
