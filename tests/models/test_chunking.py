"""Parts give what the whole gives, and keep less."""

import pytest
import torch
from torch import Tensor, nn

from softfree.models.chunking import PART, by_rows


@pytest.fixture
def branch() -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)).double()


@pytest.mark.parametrize("rows", [None, 1, 7, 30, 60, 1000])
def test_parts_are_the_whole(branch: nn.Sequential, rows: int | None) -> None:
    x = torch.randn(2, 30, 8, dtype=torch.float64, requires_grad=True)
    want = branch(x)
    (want_x, *want_p) = torch.autograd.grad(want.square().sum(), [x, *branch.parameters()])
    got = by_rows(branch, x, 32, rows)
    (got_x, *got_p) = torch.autograd.grad(got.square().sum(), [x, *branch.parameters()])
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_x, want_x)
    torch.testing.assert_close(got_p, want_p)
    with torch.no_grad():
        torch.testing.assert_close(by_rows(branch, x, 32, rows), want)


def test_only_the_tokens_are_kept_for_backward(branch: nn.Sequential) -> None:
    kept: list[Tensor] = []
    x = torch.randn(1, 1000, 8, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        by_rows(branch, x, 32, 100)
    assert max(t.untyped_storage().nbytes() for t in kept) == x.nbytes
    assert {t.untyped_storage().data_ptr() for t in kept if t.shape[-2:] != (32, 8)} >= {x.data_ptr()}
    assert not [t for t in kept if t.shape[-1] == 32 and t.ndim == 3]


def test_inference_takes_what_the_cache_holds() -> None:
    seen: list[int] = []

    def double(part: Tensor) -> Tensor:
        seen.append(part.shape[1])
        return part * 2

    x = torch.randn(3, 1000, 4)
    with torch.no_grad():
        assert torch.equal(by_rows(double, x, PART // 700), x * 2)
    assert len(seen) == 5
    assert max(seen) * (PART // 700) <= PART
    assert sum(seen) == 3000


def test_dropout_is_the_same_when_computed_again() -> None:
    branch = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).double()
    x = torch.eye(8, dtype=torch.float64).repeat(4, 1)[None].requires_grad_()
    out = by_rows(branch, x, 8, 5)
    (out.sum()).backward()
    assert x.grad is not None
    zero = (out == 0).all(-1)
    kept = (out != 0).double() * 2
    torch.testing.assert_close(x.grad, kept @ branch[0].weight)
    assert not zero.all()
