"""A bag that streams against the same bag in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softfree.models.bag import BagTransformer
from softfree.streaming import StreamedModel, Streaming, stream_forward, streamed
from softfree_runtime.core.errors import UserError

GradientsOf = Callable[[nn.Module, Tensor], dict[str, Tensor]]


def make(**options: object) -> BagTransformer:
    model = BagTransformer(10, 4, embed_dim=24, depth=2, num_heads=3, **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_bag(tiles: int, padding: int = 0) -> Tensor:
    bag = torch.cat([torch.randn(tiles + padding, 10), 20 * torch.rand(tiles + padding, 3)], 1)
    bag[torch.randperm(len(bag))[:padding], -3:] = torch.nan
    return bag


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("attention", ["seqnorm", "sima", "galerkin"])
def test_as_in_memory(attention: str, pool: str, padding: int, gradients_of: GradientsOf) -> None:
    model, bag = make(attention=attention, pool=pool).double(), make_bag(40, padding).double()
    want = model(bag[None])
    for chunk in (7, 1000):
        got = streamed(model, bag, Streaming(chunk=chunk))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
        expected, found = gradients_of(model, model(bag[None])), gradients_of(model, got)
        assert expected.keys() == found.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9, msg=name)


def test_bags_of_cases(gradients_of: GradientsOf) -> None:
    model, bag = make(views=2, timed=True).double(), make_bag(40, 13).double()
    of_slide = torch.stack([torch.arange(53) // 20, torch.where(torch.arange(53) < 20, torch.nan, -0.3)], dim=1)
    bag = torch.cat([bag[:, :10], of_slide.double(), bag[:, 10:]], dim=1)
    got, expected = streamed(model, bag, Streaming(chunk=7)), gradients_of(model, model(bag[None]))
    torch.testing.assert_close(got, model(bag[None]), rtol=1e-9, atol=1e-10)
    found = gradients_of(model, got)
    assert expected.keys() == found.keys() >= {"patch_embed.case_embed.view.weight"}
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9, msg=name)


def test_bags_with_variables(gradients_of: GradientsOf) -> None:
    model, bag = make(variables=[{"mean": 60.0, "std": 9.0}, {"categories": 2}]).double(), make_bag(40, 13).double()
    bag = torch.cat([bag[:, :10], torch.tensor([71.0, 2.0]).double().expand(53, 2), bag[:, 10:]], dim=1)
    got, expected = streamed(model, bag, Streaming(chunk=7)), gradients_of(model, model(bag[None]))
    torch.testing.assert_close(got, model(bag[None]), rtol=1e-9, atol=1e-10)
    found = gradients_of(model, got)
    assert expected.keys() == found.keys() >= {"patch_embed.variable_embed.embeddings.1.weight"}
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("pool", ["topk", "mean_topk"])
def test_heads(pool: str, gradients_of: GradientsOf) -> None:
    test_as_in_memory("seqnorm", pool, 13, gradients_of)


def test_memory_mapped(tmp_path: Path) -> None:
    model, bag = make(pos="none"), make_bag(40, 5)
    np.save(tmp_path / "bag.npy", bag.numpy(force=True))
    mapped = np.load(tmp_path / "bag.npy", mmap_mode="r")
    got = stream_forward(model, mapped, Streaming(tmp_path / "tokens", chunk=8))
    torch.testing.assert_close(got, model(bag[None]), rtol=1e-5, atol=1e-5)


def test_batch_with_padding() -> None:
    model, bags = make(), torch.stack([make_bag(20), make_bag(12, 8)])
    torch.testing.assert_close(StreamedModel(model)(bags), model(bags), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bag", [torch.zeros(5, 12), torch.full((5, 13), torch.nan), torch.zeros(0, 13)])
def test_bags_that_are_none(bag: Tensor) -> None:
    with pytest.raises(UserError, match="Got a bag"):
        stream_forward(make(), bag)


def test_mask_is_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        stream_forward(make(), make_bag(5), mask=torch.ones(5, dtype=torch.bool))
