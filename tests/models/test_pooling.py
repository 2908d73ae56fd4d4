"""Each pooling against its plain formula in float64: values, gradients, padding, parts, halves, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from softfree.models import BagTransformer, VisionTransformer, VolumeTransformer
from softfree.models.pooling import POOLINGS, TopK, create_pooling
from softfree_runtime.core.errors import UserError

POOLS = [name for name in POOLINGS if name != "token"]
FEATURES = 6


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, FEATURES, dtype=torch.float64, requires_grad=True)


def highest(x: Tensor, one_in: int = 256) -> Tensor:
    """The mean of the highest of (N, F)."""
    number = len(x)
    return x.sort(dim=0, descending=True).values[: min(number, max(4, math.ceil(number / one_in)))].mean(0)


# Of the real tokens (N, F) of one sample.
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean(0),
    "topk": lambda x: highest(x),
    "mean_topk": lambda x: (highest(x) + x.mean(0)) / 2,
}


def loss_of(result: Tensor) -> Tensor:
    """A loss to which each number matters differently."""
    return (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)).sum()


def gradient(result: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss_of(result), x, retain_graph=True)[0]


@pytest.mark.parametrize("number", [1, 3, 40, 700])
@pytest.mark.parametrize("name", POOLS)
def test_formula(name: str, number: int) -> None:
    pooling, x = create_pooling(name, {}), tokens(2, number)
    want = torch.stack([FORMULAS[name](sample) for sample in x])
    got = pooling(x)
    assert got.shape == (2, FEATURES)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(got, x), gradient(want, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_padding_is_no_token(name: str) -> None:
    pooling, x = create_pooling(name, {}), tokens(3, 300)
    mask = torch.rand(3, 300) < torch.tensor([[0.8], [0.5], [0.005]])
    mask[2, 7] = True
    want = torch.stack([FORMULAS[name](sample[real]) for sample, real in zip(x, mask, strict=True)])
    got = pooling(x, mask)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(got, x), gradient(want, x), rtol=1e-10, atol=1e-12)
    loud = x.detach().masked_fill(~mask.unsqueeze(2), 1e6)
    assert torch.equal(pooling(loud, mask), got)


@pytest.mark.parametrize("name", POOLS)
def test_a_sample_without_tokens_gives_zeros(name: str) -> None:
    pooling, x = create_pooling(name, {}), tokens(2, 9)
    mask = torch.tensor([[True] * 9, [False] * 9])
    got = pooling(x, mask)
    assert (got[1] == 0).all()
    assert gradient(got, x).isfinite().all()


@pytest.mark.parametrize("cuts", [[0, 250, 500], [0, 1, 2, 499, 500], list(range(0, 501, 4))])
@pytest.mark.parametrize("name", POOLS)
def test_parts_give_what_the_whole_gives(name: str, cuts: list[int]) -> None:
    """From dL/dsummary alone, each part finds its own gradient."""
    pooling, x = create_pooling(name, {"one_in": 16} if "topk" in name else {}), tokens(2, 500)
    mask = torch.rand(2, 500) < 0.9
    mask[:, :100] = False  # a part without a token
    want = pooling(x, mask)
    parts = [(x[:, a:b], mask[:, a:b]) for a, b in pairwise(cuts)]
    summaries = [pooling.summary(part, real, 500) for part, real in parts]
    leaves = [tuple(tensor.detach().requires_grad_() for tensor in summary) for summary in summaries]
    got = pooling.finish(leaves, mask.sum(1, keepdim=True).double())
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    flat = [leaf for summary in leaves for leaf in summary]
    inner = [tensor for summary in summaries for tensor in summary]
    through = torch.autograd.grad(loss_of(got), flat, materialize_grads=True)
    result = torch.autograd.grad(inner, x, through)[0]
    torch.testing.assert_close(result, gradient(want, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_summaries_are_merged(name: str) -> None:
    pooling, x = create_pooling(name, {"one_in": 16} if "topk" in name else {}), tokens(2, 500).detach()
    mask = torch.rand(2, 500) < 0.9
    parts = [pooling.summary(x[:, a : a + 70], mask[:, a : a + 70], 500) for a in range(0, 500, 70)]
    merged = parts[0]
    for part in parts[1:]:
        merged = pooling.merge(merged, part, 500)
    assert all(tensor.numel() <= 2 * math.ceil(500 / 16) * FEATURES for tensor in merged)
    number = mask.sum(1, keepdim=True).double()
    torch.testing.assert_close(pooling.finish([merged], number), pooling(x, mask), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_the_order_of_tokens_does_not_matter(name: str) -> None:
    pooling, x = create_pooling(name, {}), tokens(2, 300)
    torch.testing.assert_close(pooling(x[:, torch.randperm(300)]), pooling(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_more_of_the_same_tokens_say_the_same(name: str) -> None:
    """What is said of a sample does not drift with its number of tokens."""
    pooling, x = create_pooling(name, {}), tokens(2, 1024)
    torch.testing.assert_close(pooling(x.repeat(1, 9, 1)), pooling(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", POOLS)
def test_halves_are_summed_up_in_more(name: str, dtype: torch.dtype) -> None:
    pooling, x = create_pooling(name, {}), 200 * tokens(2, 2000).detach()
    x = x.to(dtype)
    want = pooling(x.double())
    got = pooling.to(dtype)(x)
    assert got.dtype == dtype
    assert (got.double() - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize(
    ("number", "chosen"), [(1, 1), (3, 3), (4, 4), (1024, 4), (1025, 5), (16384, 64), (300_000, 1024)]
)
def test_how_many_are_chosen(number: int, chosen: int) -> None:
    x = torch.zeros(1, number, FEATURES)
    x[:, :chosen] = 1
    assert (create_pooling("topk", {})(x) == 1).all()
    x = torch.cat([x, torch.full((1, 50, FEATURES), 9.0)], dim=1)  # of padding none is chosen
    assert (create_pooling("topk", {})(x, torch.arange(number + 50)[None] < number) == 1).all()
    x[:, chosen - 1] = 0
    assert (create_pooling("topk", {})(x[:, :number]) < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "topk", "pool_options": {"one_in": 0}}, "one_in=0"),
        ({"pool": "topk", "pool_options": {"share": 4}}, "'share' for pool='topk', whose options are: one_in"),
        ({"pool": "avg", "pool_options": {"one_in": 4}}, "options are: none"),
        ({"pool": "top"}, "did you mean topk"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VisionTransformer(16, 8, embed_dim=8, depth=1, num_heads=2, **options)


SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def lively(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("attention", ["softmax", "seqnorm", "sima"])
def test_neither_padding_nor_neighbors_matter(attention: str, pool: str) -> None:
    model = lively(VisionTransformer(32, 8, attention=attention, pool=pool, class_token=True, **SMALL))
    x, mask = torch.randn(2, 3, 40, 32, dtype=torch.float64), torch.rand(2, 20) > 0.5
    pixels = mask.view(2, 1, 5, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    logits = model(x, mask)
    torch.testing.assert_close(model(x.where(pixels, 1e3), mask), logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(x[1:], mask[1:]), logits[1:], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model(x), logits, rtol=1e-4)


@pytest.mark.parametrize("pool", POOLS)
def test_bags_and_volumes(pool: str) -> None:
    bag = lively(BagTransformer(6, pool=pool, **SMALL))
    tiles = torch.rand(2, 30, 9, dtype=torch.float64)
    tiles[1, 20:, -1] = torch.nan
    torch.testing.assert_close(bag(tiles[1:, :20]), bag(tiles)[1:], rtol=1e-10, atol=1e-10)
    volume = lively(VolumeTransformer((8, 16, 16), (4, 8, 8), pool=pool, **SMALL))
    voxels = torch.randn(2, 1, 9, 20, 16, dtype=torch.float64)
    volume(voxels).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in volume.parameters())


@pytest.mark.parametrize("pool", POOLS)
def test_of_tokens_to_logits(pool: str) -> None:
    """The classifier sees what is pooled of features: by the formulas above."""
    model = lively(VisionTransformer(32, 8, pool=pool, **SMALL))
    x = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    features = model.forward_features(x)
    pooled = torch.stack([FORMULAS[pool](sample) for sample in features])
    torch.testing.assert_close(model(x), model.head(model.fc_norm(pooled)))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert isinstance(model.norm, torch.nn.Identity) == (pool == "avg")


def test_a_class_that_starts_with_its_lowest_logit_at_the_finding_still_gets_a_gradient_from_it() -> None:
    """Half of the features are highest at a token that differs, whatever the weights of the head."""
    x = torch.randn(1, 4096, 64, dtype=torch.float64)
    x[0, 1234] = 20 * torch.randn(64, dtype=torch.float64)
    x.requires_grad_()
    head = torch.nn.Linear(64, 1).double()
    with torch.no_grad():
        head.weight.copy_(-x[0, 1234])
    head(TopK()(x)).sum().backward()
    assert x.grad is not None
    assert (x.grad[0, 1234] != 0).sum() > 16


@pytest.mark.parametrize("pool", POOLS)
def test_another_number_of_classes(pool: str) -> None:
    model = lively(VisionTransformer(32, 8, pool=pool, **SMALL))
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (1, 7)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), features)
