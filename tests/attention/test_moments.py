"""The two passes over the tokens: their values in parts and with padding, and their error in each precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from softfree.attention import SeqNormAttention
from softfree.attention import moments as subject
from softfree.attention.moments import affine, moments


def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 256 tokens, the smallest there are."""
    monkeypatch.setattr(subject, "PART", 1)


def relative(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def plain_moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One sample after the other, by torch's own mean and covariance in float64."""
    samples = [s if mask is None else s[mask[i]] for i, s in enumerate(x.double())]
    mean = torch.stack([s.mean(0) for s in samples])
    return mean, torch.stack([torch.cov(s.T, correction=0).reshape(x.shape[2], x.shape[2]) for s in samples])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    tokens=st.sampled_from([1, 2, 63, 255, 256, 257, 1000]),
    width=st.sampled_from([1, 7]),
    masked=st.booleans(),
    mean=st.sampled_from([0.0, -1e4]),
    part=st.sampled_from([1, 2**21]),
    seed=st.integers(0, 2**16),
)
def test_moments_are_mean_and_covariance(
    batch: int, tokens: int, width: int, masked: bool, mean: float, part: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(batch, tokens, width, dtype=torch.float64) + mean
    mask = None
    if masked:
        mask = torch.rand(batch, tokens) < 0.5
        mask[torch.arange(batch), torch.randint(tokens, (batch,))] = True
        x[~mask] = float("nan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "PART", part)
        same, got_mean, covariance = moments(x, mask)
    assert same.data_ptr() == x.data_ptr()
    want_mean, want = plain_moments(x, mask)
    torch.testing.assert_close(got_mean, want_mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(covariance, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_moments_of_a_narrow_type_are_float32(dtype: torch.dtype, masked: bool) -> None:
    """Channel means of 100 times the spread: a difference of raw sums would leave nothing of the covariance."""
    x = (torch.randn(2, 3000, 16) + 100 * torch.randn(16)).to(dtype)
    mask = torch.rand(2, 3000) < 0.5 if masked else None
    _, mean, covariance = moments(x, mask)
    assert mean.dtype == covariance.dtype == torch.float32
    want_mean, want = plain_moments(x, mask)
    # Tokens are centered in their own type, as products need them: exact to that type against the spread, which is 1.
    assert (mean - want_mean).abs().max() < torch.finfo(dtype).eps + 2e-5
    assert relative(covariance, want) < 4 * torch.finfo(dtype).eps + 1e-6


def test_variances_are_never_negative() -> None:
    x = torch.randn(3, 1, 16).expand(3, 700, 16) * torch.logspace(-6, 6, 16)
    assert (moments(x)[2].diagonal(dim1=1, dim2=2) >= 0).all()


@pytest.mark.parametrize("tokens", [1, 9, 2000])
def test_without_real_tokens_both_are_zero(tokens: int) -> None:
    x = torch.full((2, tokens, 4), float("nan"))
    _, mean, covariance = moments(x, torch.zeros(2, tokens, dtype=torch.bool))
    assert (mean == 0).all()
    assert (covariance == 0).all()


def test_a_bad_guess_of_the_mean_changes_nothing() -> None:
    """The tokens that the guess looks at are outliers, as a class token or a border may be."""
    x = torch.randn(1, 4 * subject.ESTIMATE_TOKENS, 8, dtype=torch.float64)
    x[:, ::4] += 1e3
    x[:, :: subject.ESTIMATE_TOKENS] = -1e5
    want_mean, want = plain_moments(x, None)
    for mask in (None, torch.ones(1, 4 * subject.ESTIMATE_TOKENS, dtype=torch.bool)):
        _, mean, covariance = moments(x, mask)
        assert relative(mean, want_mean) < 1e-11
        assert relative(covariance, want) < 1e-11


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_affine_is_its_formula(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch)
    x, mixing = torch.randn(2, 600, 5, dtype=torch.float64), torch.randn(2, 5, 5, dtype=torch.float64)
    mean, constant = torch.randn(2, 2, 5, dtype=torch.float64)
    mask = torch.rand(2, 600) < 0.7 if masked else None
    want = torch.einsum("bni,bij->bnj", x - mean[:, None], mixing) + constant[:, None]
    if mask is not None:
        x[~mask] = float("inf")
        want[~mask] = constant[:, None].expand(-1, 600, -1)[~mask]
    torch.testing.assert_close(affine(x, mean, mixing, constant, mask), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_slopes_of_both_together(masked: bool) -> None:
    """Against differences; x enters by its mean, its covariance, and itself."""
    x = (torch.randn(2, 6, 3, dtype=torch.float64) + 2).requires_grad_()
    mixing = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, dtype=torch.float64)
    mask = torch.arange(6).expand(2, -1) < torch.tensor([[6], [4]]) if masked else None

    def both(x: Tensor, mixing: Tensor) -> Tensor:
        x, mean, covariance = moments(x, mask)
        y = affine(x, mean, covariance.sin() @ mixing, mean * weights + covariance[:, 0], mask)
        return y if mask is None else y[mask]

    assert torch.autograd.gradcheck(both, (x, mixing))


# Parts.


@pytest.mark.parametrize("tokens", [256, 257, 1000])
def test_parts_cover_each_token_once(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch)
    x, visits = torch.randn(3, tokens, 4), torch.zeros(3, tokens)
    for samples, span, centered in subject._centered_chunks(x, x.mean(1), None):
        assert centered.shape == x[samples, span].shape
        assert centered.shape[1] <= 256
        visits[samples, span] += 1
    assert (visits == 1).all()


def make(dim: int, num_heads: int, dtype: torch.dtype) -> SeqNormAttention:
    """In the Gram order, with random shifts: with those of the start some gradients would be 0."""
    module = SeqNormAttention(dim, num_heads, order="gram", dtype=dtype)
    with torch.no_grad():
        for norm in (module.q_norm, module.k_norm, module.v_norm):
            norm.bias.normal_()
    return module


def slopes(module: SeqNormAttention, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Values and every gradient for the sum of squares of the real tokens."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x, mask)
    y = y if mask is None else y[mask]
    y.square().sum().backward()
    return {"y": y.detach(), "x": x.grad, **{name: p.grad.clone() for name, p in module.named_parameters()}}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=str
)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_many_parts_give_what_one_gives(
    dtype: torch.dtype, tolerance: float, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make(12, 3, dtype)
    x = (torch.randn(2, 1000, 12) + 1).to(dtype)
    mask = torch.arange(1000).expand(2, -1) < torch.tensor([[300], [1000]]) if masked else None  # parts of padding only
    want = slopes(module, x, mask)
    in_parts(monkeypatch)
    got = slopes(module, x, mask)
    assert {name: relative(got[name], want[name]) for name in want} == {
        name: pytest.approx(0, abs=tolerance) for name in want
    }


# Error against a literal reference in float64 of the same inputs and parameters.


def reference(module: SeqNormAttention) -> SeqNormAttention:
    module = copy.deepcopy(module).double()
    module.order = "literal"
    return module


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.bfloat16, 1.2e-2)], ids=str)
@pytest.mark.parametrize("mean", [0, 1, 100], ids="mean {}".format)
@pytest.mark.parametrize(("batch", "tokens", "width", "heads"), [(2, 197, 96, 3), (1, 4096, 64, 1), (3, 1000, 24, 24)])
def test_error_of_gram(
    dtype: torch.dtype, bound: float, mean: float, batch: int, tokens: int, width: int, heads: int
) -> None:
    """Also where the channels' means are 100 times their spread."""
    module = SeqNormAttention(width, heads, order="gram", dtype=dtype)
    means = mean * torch.randn(width).sign()
    x = (torch.randn(batch, tokens, width) + means).to(dtype)
    with torch.inference_mode():
        assert relative(module(x), reference(module)(x.double())) <= bound


@pytest.mark.parametrize("mean", [0, 100], ids="mean {}".format)
def test_error_of_gram_in_many_parts(mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch)
    x = torch.randn(1, 20_000, 24) + mean
    for dtype, bound in ((torch.float32, 5e-6), (torch.bfloat16, 1.2e-2)):
        module = SeqNormAttention(24, 3, order="gram", dtype=dtype)
        with torch.inference_mode():
            assert relative(module(x.to(dtype)), reference(module)(x.to(dtype).double())) <= bound


@pytest.mark.parametrize(("mean", "masked"), [(0, False), (100, True)], ids=["mean 0-whole", "mean 100-masked"])
def test_float16_of_a_long_sequence(masked: bool, mean: float) -> None:
    """131,072 tokens: raw sums of float16 end at 65,504, and 1 / N is below its smallest normal number."""
    tokens = 131_072
    module = make(16, 2, torch.float16)
    x = (torch.randn(1, tokens, 16) + mean).half().requires_grad_()
    mask = torch.arange(tokens).expand(1, -1) < tokens - 1000 if masked else None
    plain = reference(module)
    real = slice(None) if mask is None else mask
    got, want = module(x, mask)[real], plain(x.detach().double(), mask)[real]
    assert got.isfinite().all()
    assert relative(got, want) < 4e-3
    for y in (got, want):
        (y.double().square().mean() * 2**10).backward()  # a loss scaler's factor
    assert x.grad.isfinite().all()
    for name, parameter in module.named_parameters():
        assert relative(parameter.grad, plain.get_parameter(name).grad) < 2e-2, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("samples", [1, 3])
def test_products_of_one_and_of_several_samples(dtype: torch.dtype, samples: int) -> None:
    """A CPU hands over one sample at a time, other devices all of them."""
    a, b = torch.randn(2, samples, 50, 8).to(dtype)
    out = torch.ones(samples, 8, 8, dtype=torch.promote_types(dtype, torch.float32))
    subject._add_gram(out, a, b)
    want = 1 + torch.stack([x.double().T @ y.double() for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(out.double(), want, rtol=0.01, atol=0.05 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.bfloat16, 0.05)])
def test_all_samples_at_once_as_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, masked: bool
) -> None:
    module = SeqNormAttention(24, 3, order="gram", dtype=dtype)
    x = torch.randn(3, 100, 24).to(dtype).requires_grad_()
    mask = torch.rand(3, 100) < 0.7 if masked else None
    weights = torch.randn(3, 100, 24).to(dtype)
    results = []
    for sizes in (subject._chunk_sizes, lambda x: (x.shape[0], x.shape[1])):
        monkeypatch.setattr(subject, "_chunk_sizes", sizes)
        out = module(x, mask)
        results.append([out, *torch.autograd.grad((out * weights).sum(), [x, *module.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance * one.abs().max().item())
