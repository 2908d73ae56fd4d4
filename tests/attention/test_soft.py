"""What is particular to SOFT and SOFT++: kernel, landmarks, forms, saturation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention import SoftAttention, SoftNormAttention
from softfree.attention.grid import window_means
from softfree.attention.soft.module import gaussian_kernel
from softfree_runtime.core.errors import UserError

METHODS = [SoftAttention, SoftNormAttention]


def make(method: type[SoftAttention] = SoftAttention, **options: object) -> SoftAttention:
    torch.manual_seed(0)
    module = method(24, 3, **{"dtype": torch.float64, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def dense(a: Tensor, b: Tensor) -> Tensor:
    return (-(a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / 2).exp()


def test_kernel() -> None:
    a, b = torch.randn(2, 3, 7, 8, dtype=torch.float64), torch.randn(2, 3, 11, 8, dtype=torch.float64)
    torch.testing.assert_close(gaussian_kernel(a, b), dense(a, b))
    a, b = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(gaussian_kernel, (a, b))
    assert torch.autograd.gradcheck(lambda t: gaussian_kernel(t, t), a)


def test_kernel_far_from_the_origin() -> None:
    """|a|^2 + |b|^2 - 2 a.b at 1e4 has lost all digits in float32; centered it has not."""
    a = torch.randn(1, 1, 9, 8)
    want = dense(a.double(), a.double())
    got = gaussian_kernel(a + 1e4, a + 1e4)
    assert (got <= 1).all()
    moved = (a + 1e4).double()
    torch.testing.assert_close(got.double(), dense(moved, moved), rtol=0, atol=1e-5)
    assert not torch.allclose(want, torch.ones_like(want), atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_with_a_landmark_for_each_token_it_is_the_full_kernel(method: type[SoftAttention]) -> None:
    """S = A A^+ A = A; normalized, S = A D^-1/2 A^+ D^-1/2 A."""
    module = make(method, landmarks=30, iterations=60)
    x = 2 * torch.randn(2, 30, 24, dtype=torch.float64)
    q, v = (module.split_heads(t) for t in module.qkv(x).chunk(2, dim=-1))
    a = dense(q / 8**0.25, q / 8**0.25)
    s = a
    if module.normalized:
        d = torch.diag_embed(a.sum(-1).rsqrt())
        s = a @ d @ torch.linalg.inv(a) @ d @ a
    torch.testing.assert_close(module.mix(q, q, v, None), s @ v, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [(7, 9), (3, 21), (4, 5, 3)], ids=str)
def test_landmarks_of_a_grid(method: type[SoftAttention], grid: tuple[int, ...]) -> None:
    module = make(method, landmarks=12, ridge=0.1, iterations=40)
    x = torch.randn(2, 1 + math.prod(grid), 24, dtype=torch.float64)
    q, v = (module.split_heads(t) for t in module.qkv(x).chunk(2, dim=-1))
    at, _ = window_means(q, grid, None, number=12)
    a, p = dense(at / 8**0.25, at / 8**0.25), dense(at / 8**0.25, q / 8**0.25)
    inverse = torch.linalg.inv(a + 0.1 * torch.eye(a.shape[-1], dtype=a.dtype))
    if module.normalized:
        d = torch.diag_embed(a.sum(-1).rsqrt())
        inverse = d @ inverse @ d
    want = module.proj((p.mT @ inverse @ p @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, grid=grid), want, rtol=1e-8, atol=1e-8)


def test_released_landmarks_are_a_learned_convolution() -> None:
    module = make(form="released", stride=2, conv=3, iterations=40)
    assert module.ridge == 0.01
    x, grid = torch.randn(2, 4 * 6, 24, dtype=torch.float64), (4, 6)
    q, v = (module.split_heads(t) for t in module.qkv(x).chunk(2, dim=-1))
    q = q / 8**0.25  # before the sampling, and not after it
    maps = q.mT.reshape(6, 8, 4, 6)
    sample = module.sample
    at = F.conv2d(maps, sample.conv.weight, stride=2).flatten(2).mT.reshape(2, 3, 6, 8)
    at = F.gelu(F.layer_norm(at, (8,), sample.norm.weight, sample.norm.bias, 1e-5))
    a, p = dense(at, at), dense(at, q)
    mixed = p.mT @ torch.linalg.inv(a + 0.01 * torch.eye(6, dtype=a.dtype)) @ p @ v + module.local(v, grid, None)
    want = module.proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, grid=grid), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (1, 3)], ids=str)
def test_released_padding_has_no_say(grid: tuple[int, int]) -> None:
    module = make(form="released", stride=2, conv=3)
    x = torch.randn(2, math.prod(grid), 24, dtype=torch.float64)
    mask = torch.rand(2, math.prod(grid)) < 0.5
    mask[:, 0] = True
    got = [module(x.masked_fill(~mask.unsqueeze(-1), value), mask, grid=grid)[mask] for value in (0.0, float("nan"))]
    assert torch.equal(*got)


def test_released_form_needs_stride_and_grid() -> None:
    with pytest.raises(UserError, match="without stride"):
        SoftAttention(24, 3, form="released")
    with pytest.raises(UserError, match="without rows and columns"):
        make(form="released", stride=2)(torch.randn(1, 9, 24, dtype=torch.float64))


@pytest.mark.parametrize("options", [{"form": "papr"}, {"sampling": "pol"}], ids=str)
def test_unknown_choices(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        SoftAttention(24, 3, **options)


def test_a_stride_makes_the_number_of_landmarks_grow() -> None:
    module = make(stride=4)
    for rows, columns, number in ((8, 8, 4), (16, 16, 16), (15, 9, 12)):
        q = torch.randn(1, 3, rows * columns, 8, dtype=torch.float64)
        assert module.kernels(q, None, (rows, columns)).between.shape[-1] == number


@pytest.mark.parametrize("method", METHODS)
def test_identical_landmarks(method: type[SoftAttention]) -> None:
    """Two equal tokens make A singular: values and gradients stay finite."""
    module = make(method, dtype=torch.float32)
    x = torch.randn(1, 10, 24).repeat(1, 2, 1).requires_grad_()
    out = module(x)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert module.replaced == 0


def test_float16_saturates_instead_of_overflowing() -> None:
    module = make(dtype=torch.float16)
    with torch.no_grad():
        module.qkv.weight.mul_(0.01)
        module.qkv.weight[24:].mul_(1000)
    x = (torch.randn(1, 20_000, 24) * 0.1 + 4).half().requires_grad_()
    q, v = (module.split_heads(t) for t in module.qkv(x).chunk(2, dim=-1))
    out = module.mix(q, q, v, None)
    assert out.isfinite().all()
    assert (out.abs() == torch.finfo(torch.float16).max).any()


def test_keys_of_a_state_dict_with_three_projections_are_left_out() -> None:
    module = SoftAttention(24, 3, qkv_bias=True)
    state = {**module.state_dict(), "qkv.weight": torch.randn(72, 24), "qkv.bias": torch.randn(72)}
    module.load_state_dict(dict(state))
    for name in ("weight", "bias"):
        q, _, v = state[f"qkv.{name}"].chunk(3)
        assert torch.equal(getattr(module.qkv, name), torch.cat([q, v]))
