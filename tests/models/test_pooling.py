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
from softfree.models.pooling import POOLINGS, Gated, LogSumExp, Pooling, create_pooling
from softfree_runtime.core.errors import UserError

POOLS = [name for name in POOLINGS if name != "token"]
FEATURES = 6


def make(name: str, **options: Any) -> Pooling:
    """One whose every parameter matters."""
    pooling = create_pooling(name, FEATURES, options)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return pooling.double()


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, FEATURES, dtype=torch.float64, requires_grad=True)


def highest(x: Tensor, one_in: int = 64) -> Tensor:
    """The mean of the highest of (N, F)."""
    number = len(x)
    return x.sort(dim=0, descending=True).values[: min(number, max(4, math.ceil(number / one_in)))].mean(0)


def soft_maximum(x: Tensor, pooling: Pooling) -> Tensor:
    assert isinstance(pooling, LogSumExp)
    sharpness = pooling.log_sharpness.exp()
    return (x * sharpness).exp().mean(0).log() / sharpness


def gated(x: Tensor, pooling: Pooling) -> Tensor:
    assert isinstance(pooling, Gated)
    hidden = torch.tanh(x @ pooling.value.weight.T + pooling.value.bias)
    hidden = hidden * torch.sigmoid(x @ pooling.gate.weight.T + pooling.gate.bias)
    scores = (hidden @ pooling.score.weight.T).exp()
    return (scores * x).sum(0) / scores.sum()


# Of the real tokens (N, F) of one sample.
FORMULAS: dict[str, Callable[[Tensor, Pooling], Tensor]] = {
    "avg": lambda x, _: x.mean(0),
    "mean_std": lambda x, _: torch.cat([x.mean(0), (x.var(0, correction=0) + 1e-6).sqrt()]),
    "topk": lambda x, _: highest(x),
    "mean_topk": lambda x, _: (highest(x) + x.mean(0)) / 2,
    "lse": soft_maximum,
    "gated": gated,
}


def loss_of(result: Tensor) -> Tensor:
    """A loss to which each number matters differently."""
    return (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)).sum()


def gradients(result: Tensor, pooling: Pooling, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss_of(result), [x, *pooling.parameters()], retain_graph=True))


@pytest.mark.parametrize("number", [1, 3, 40, 700])
@pytest.mark.parametrize("name", POOLS)
def test_formula(name: str, number: int) -> None:
    pooling, x = make(name), tokens(2, number)
    want = torch.stack([FORMULAS[name](sample, pooling) for sample in x])
    got = pooling(x)
    assert got.shape == (2, pooling.width * FEATURES)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(got, pooling, x), gradients(want, pooling, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_padding_is_no_token(name: str) -> None:
    pooling, x = make(name), tokens(3, 300)
    mask = torch.rand(3, 300) < torch.tensor([[0.8], [0.5], [0.005]])
    mask[2, 7] = True
    want = torch.stack([FORMULAS[name](sample[real], pooling) for sample, real in zip(x, mask, strict=True)])
    got = pooling(x, mask)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(got, pooling, x), gradients(want, pooling, x), rtol=1e-10, atol=1e-12)
    loud = x.detach().masked_fill(~mask.unsqueeze(2), 1e6)
    assert torch.equal(pooling(loud, mask), got)


@pytest.mark.parametrize("name", POOLS)
def test_a_sample_without_tokens_gives_zeros(name: str) -> None:
    pooling, x = make(name), tokens(2, 9)
    mask = torch.tensor([[True] * 9, [False] * 9])
    got = pooling(x, mask)
    assert got[1].abs().max() <= pooling.width * 1e-3 - 1e-3  # but for eps of a deviation
    assert all(grad.isfinite().all() for grad in gradients(got, pooling, x))


@pytest.mark.parametrize("cuts", [[0, 250, 500], [0, 1, 2, 499, 500], list(range(0, 501, 4))])
@pytest.mark.parametrize("name", POOLS)
def test_parts_give_what_the_whole_gives(name: str, cuts: list[int]) -> None:
    """From dL/dsummary alone, each part finds its own gradient."""
    pooling, x = make(name, **({"one_in": 16} if "topk" in name else {})), tokens(2, 500)
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
    loss = loss_of(got)
    through = torch.autograd.grad(loss, flat, materialize_grads=True, retain_graph=True)
    ends = [(end, grad) for end, grad in zip(inner, through, strict=True) if end.requires_grad]
    wanted = [x, *pooling.parameters()]
    found = torch.autograd.grad([end for end, _ in ends], wanted, [grad for _, grad in ends], materialize_grads=True)
    after = torch.autograd.grad(loss, list(pooling.parameters()), materialize_grads=True) if len(wanted) > 1 else []
    total = [found[0], *(a + b for a, b in zip(found[1:], after, strict=True))]
    torch.testing.assert_close(total, gradients(want, pooling, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_the_order_of_tokens_does_not_matter(name: str) -> None:
    pooling, x = make(name), tokens(2, 300)
    torch.testing.assert_close(pooling(x[:, torch.randperm(300)]), pooling(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_more_of_the_same_tokens_say_the_same(name: str) -> None:
    """What is said of a sample does not drift with its number of tokens."""
    pooling, x = make(name), tokens(2, 256)
    torch.testing.assert_close(pooling(x.repeat(1, 9, 1)), pooling(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", POOLS)
def test_halves_are_summed_up_in_more(name: str, dtype: torch.dtype) -> None:
    pooling, x = make(name), 200 * tokens(2, 2000).detach()
    x = x.to(dtype)
    want = pooling(x.double())
    got = pooling.to(dtype)(x)
    assert got.dtype == dtype
    assert (got.double() - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize("name", [name for name in POOLS if POOLINGS[name].weighted])
def test_weights(name: str) -> None:
    """They sum to 1, and with what they leave out the weighted values are the result."""
    pooling, x = make(name), tokens(2, 300)
    mask = torch.rand(2, 300) < 0.6
    for feature in range(FEATURES):
        values = x[..., feature]
        weights = pooling.weights(pooling.weight_scores(x, values), mask, feature)
        assert (weights >= 0).all()
        assert (weights[~mask] == 0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
        whole = (weights * values).sum(1) + pooling.rest(weights, mask, feature)
        torch.testing.assert_close(whole, pooling(x, mask)[:, feature], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("number", "chosen"), [(1, 1), (3, 3), (4, 4), (256, 4), (257, 5), (4096, 64)])
def test_how_many_are_chosen(number: int, chosen: int) -> None:
    x = torch.zeros(1, number, FEATURES)
    x[:, :chosen] = 1
    assert (make("topk").float()(x) == 1).all()
    x = torch.cat([x, torch.full((1, 50, FEATURES), 9.0)], dim=1)  # of padding none is chosen
    assert (make("topk").float()(x, torch.arange(number + 50)[None] < number) == 1).all()
    x[:, chosen - 1] = 0
    assert (make("topk").float()(x[:, :number]) < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "topk", "pool_options": {"one_in": 0}}, "one_in=0"),
        ({"pool": "topk", "pool_options": {"share": 4}}, "'share' for pool='topk', whose options are: one_in"),
        ({"pool": "gated", "pool_options": {"one_in": 4}}, "options are: none"),
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
    """Logits of each token are pooled, or the classifier sees what is pooled of features: by the formulas above."""
    model = lively(VisionTransformer(32, 8, pool=pool, **SMALL))
    x = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    found = model.forward_features(x)
    if model.pooling.of_logits:
        want = torch.stack([FORMULAS[pool](sample, model.pooling) for sample in model.head(found)])
    else:
        pooled = torch.stack([FORMULAS[pool](sample, model.pooling) for sample in found])
        want = model.head(model.fc_norm(pooled))
        assert model.forward_head(found, pre_logits=True).shape == (2, model.num_features)
    torch.testing.assert_close(model(x), want)
    assert isinstance(model.norm, torch.nn.Identity) == (pool == "avg")


@pytest.mark.parametrize("pool", POOLS)
def test_another_number_of_classes(pool: str) -> None:
    model = lively(VisionTransformer(32, 8, pool=pool, **SMALL))
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (1, 7)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), features)
