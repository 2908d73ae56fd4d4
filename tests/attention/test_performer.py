"""What is particular to Performer: its features, and when they are drawn."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from softfree.attention import PerformerAttention
from softfree.attention.performer.module import orthogonal_features
from softfree_runtime.core.errors import UserError


def make(**options: Any) -> PerformerAttention:
    return PerformerAttention(24, 3, **{"dtype": torch.float64, **options})


def heads(tokens: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, 3, tokens, 8, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[3])).softmax(3) @ v


def draw(number: int, width: int, seed: int = 0) -> Tensor:
    return orthogonal_features(number, width, torch.Generator().manual_seed(seed))


def test_features_are_orthogonal_within_a_block() -> None:
    for block in draw(20, 8).split(8):
        product = block @ block.T
        torch.testing.assert_close(product, torch.diag(product.diagonal()), rtol=0, atol=1e-12)


def test_features_have_the_lengths_and_directions_of_gaussian_vectors() -> None:
    vectors = draw(30_000, 3)
    squares = vectors.square().sum(1)
    assert squares.mean().item() == pytest.approx(3, rel=0.05)
    assert squares.var().item() == pytest.approx(6, rel=0.1)
    assert vectors.mean(0).abs().max() < 0.03, "without the signs of R one half of all directions is missing"
    torch.testing.assert_close(vectors.T @ vectors / len(vectors), torch.eye(3).double(), rtol=0, atol=0.05)


def test_the_kernel_has_no_bias() -> None:
    x, y = torch.randn(2, 4, dtype=torch.float64) / 2
    w = draw(100_000, 4)
    got = (w @ (x + y) - (x @ x + y @ y) / 2).exp().mean()
    torch.testing.assert_close(got, (x @ y).exp(), rtol=0.02, atol=0)


def test_many_features_approach_softmax() -> None:
    q, k, v = heads()
    q, k = q / 2, k / 2  # the variance grows with their size
    want, errors = softmax(q, k, v), []
    for features in (16, 256, 16_384):
        errors.append((make(features=features, eps=1e-9).mix(q, k, v, None) - want).square().mean().sqrt().item())
    assert errors[0] > 2 * errors[1] > 8 * errors[2]
    assert errors[2] < 0.02


def test_the_number_of_features() -> None:
    assert PerformerAttention(192, 3).projection.shape == (266, 64)
    assert PerformerAttention(3, 3).projection.shape == (1, 1)
    assert PerformerAttention(192, 3, features=10).projection.shape == (10, 64)


def test_generalized_kernel() -> None:
    module, (q, k, v) = make(kernel="relu"), heads()
    phi_q, phi_k = ((t / 8**0.25 @ module.projection.T).clamp(min=0) + 1e-3 for t in (q, k))
    weights = phi_q @ phi_k.mT
    torch.testing.assert_close(module.mix(q, k, v, None), weights / weights.sum(3, keepdim=True) @ v)


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_large_tokens_are_finite(kernel: Any) -> None:
    q, k, v = (t.float().mul(1e4).requires_grad_() for t in heads())
    out = make(kernel=kernel, dtype=torch.float32).mix(q, k, v, None)
    out.sum().backward()
    assert all(t.isfinite().all() for t in (out, q.grad, k.grad, v.grad))


def test_drawn_again_in_training_only() -> None:
    module, x = make(redraw_every=3), torch.randn(1, 5, 24, dtype=torch.float64)
    first, draws = module.projection.clone(), []
    for _ in range(7):
        module(x)
        draws.append(module.projection.clone())
        module.eval()
        module(x)
        assert torch.equal(module.projection, draws[-1])
        module.train()
    assert all(torch.equal(t, first) for t in draws[:3])
    assert all(torch.equal(t, draws[3]) for t in draws[3:6])
    assert not any(torch.equal(a, b) for a, b in ((first, draws[3]), (draws[3], draws[6])))
    assert module.clock[1] == 7


def test_batches_of_one_step_count_once() -> None:
    module, x = make(redraw_every=2), torch.randn(1, 5, 24, dtype=torch.float64)
    first = module.projection.clone()
    for number in range(8):  # two steps of four
        module.counts = number % 4 == 0
        module(x)
        assert torch.equal(module.projection, first)
    module.counts = True
    module(x)
    assert not torch.equal(module.projection, first)


def test_never_drawn_again() -> None:
    module, x = make(redraw_every=0), torch.randn(1, 5, 24, dtype=torch.float64)
    first = module.projection.clone()
    for _ in range(3):
        module(x)
    assert torch.equal(module.projection, first)


def test_layers_differ_and_a_seed_repeats_them() -> None:
    torch.manual_seed(1)
    first, second = make(), make()
    torch.manual_seed(1)
    again = make()
    assert not torch.equal(first.projection, second.projection)
    assert torch.equal(first.projection, again.projection)


def test_a_draw_leaves_the_generator_of_torch_alone() -> None:
    module, x = make(redraw_every=1), torch.randn(1, 5, 24, dtype=torch.float64)
    state = torch.get_rng_state()
    for _ in range(3):
        module(x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("way", ["state", "copy", "process"])
def test_the_same_draws_go_on_elsewhere(way: str) -> None:
    torch.manual_seed(2)
    module, x = make(redraw_every=2), torch.randn(1, 5, 24, dtype=torch.float64)
    torch.manual_seed(2)
    other = make(redraw_every=2)  # as another process of a distributed training makes it
    if way == "state":
        other = make(redraw_every=2)
    for _ in range(3):
        module(x)
        if way == "process":
            torch.randn(7)
            other(x)
    if way == "state":
        other(x)
        other.load_state_dict(module.state_dict())
    elif way == "copy":
        other = copy.deepcopy(module)
    for _ in range(4):
        assert torch.equal(module.projection, other.projection)
        module(x), other(x)
    assert module.clock.tolist() == other.clock.tolist()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_neither_counts_nor_draws_twice(reentrant: bool) -> None:
    module = make(redraw_every=2)
    plain, gradients = copy.deepcopy(module), ([], [])
    x = torch.randn(5, 1, 9, 24, dtype=torch.float64)
    for step in x:
        for model, kept, again in ((plain, gradients[0], False), (module, gradients[1], True)):
            leaf = step.clone().requires_grad_()
            out = checkpoint(model, leaf, use_reentrant=reentrant) if again else model(leaf)
            out.square().sum().backward()
            kept.append(leaf.grad)
            assert model.projection is not None
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)
    assert module.clock.tolist() == plain.clock.tolist()
    assert module.clock[1] == 5
    assert torch.equal(module.projection, plain.projection)


def test_backward_after_the_next_draw() -> None:
    """Gradients are those of the features that the forward had."""
    module, x = make(redraw_every=1), torch.randn(1, 5, 24, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    late = module(mine).square().sum()
    frozen = copy.deepcopy(module).eval()
    module(x)
    assert not torch.equal(module.projection, frozen.projection)
    late.backward()
    frozen(theirs).square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_made_without_memory() -> None:
    with torch.device("meta"):
        module = PerformerAttention(24, 3)
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    assert module.projection.isfinite().all()
    assert module.clock[1] == 0


@pytest.mark.slow
def test_compiled_training_draws() -> None:
    module, x = make(redraw_every=2), torch.randn(1, 5, 24, dtype=torch.float64)
    plain = copy.deepcopy(module)
    compiled = torch.compile(module)
    for _ in range(5):
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-12, atol=1e-12)
    assert module.clock.tolist() == plain.clock.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rleu"}, "did you mean relu"),
        ({"features": 0}, "0 features"),
        ({"redraw_every": -1}, "every -1 forwards"),
    ],
)
def test_options_that_do_not_go(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)
