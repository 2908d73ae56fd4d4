"""Each streaming against its attention: whole, in chunks, masked, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from softfree.attention import Attention, create_attention
from softfree.attention.streaming import AffineMap, StreamingAttention, streaming_form
from softfree_runtime.core.errors import UserError

WIDTH, HEADS = 24, 3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "seqnorm": ("seqnorm", {}),
    "seqnorm plain": ("seqnorm", {"affine": False}),
    "seqnorm qk": ("seqnorm", {"normalized": "qk", "init": "first_order"}),
    "seqnorm kv": ("seqnorm", {"normalized": "kv"}),
    "seqnorm weighted": ("seqnorm", {"importance": 2.0}),
    "seqnorm weighted qk": ("seqnorm", {"importance": 2.0, "normalized": "qk"}),
    "sima": ("sima", {"qkv_bias": True}),
    "sima plain": ("sima", {}),
    "galerkin": ("galerkin", {"qkv_bias": True}),
    "galerkin plain": ("galerkin", {"proj_bias": False}),
}


@pytest.fixture(params=CASES)
def attention(request: pytest.FixtureRequest) -> Attention:
    torch.manual_seed(0)
    name, options = CASES[request.param]
    made = create_attention(name, WIDTH, HEADS, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def in_chunks(streaming: StreamingAttention, h: Tensor, sizes: list[int]) -> Tensor:
    return sum(streaming.raw(streaming.gather(chunk)) for chunk in h.split(sizes, dim=1))  # type: ignore[return-value]


def test_whole(attention: Attention) -> None:
    streaming, h = streaming_form(attention), torch.randn(2, 90, WIDTH, dtype=torch.float64) + 1
    y = streaming.apply(h, streaming.affine_map(streaming.gather(h)))
    torch.testing.assert_close(y, attention(h), rtol=1e-10, atol=1e-11)


def test_chunks_add_up(attention: Attention) -> None:
    streaming, h = streaming_form(attention), torch.randn(2, 90, WIDTH, dtype=torch.float64) + 1
    raw = in_chunks(streaming, h, [1, 40, 17, 32])
    assert raw.shape == (2, streaming.raw_size)
    stats, want = streaming.from_raw(raw, torch.float64), streaming.gather(h)
    torch.testing.assert_close(stats, want, rtol=1e-10, atol=1e-10)


def test_masked_tokens_count_for_nothing(attention: Attention) -> None:
    streaming, h = streaming_form(attention), torch.randn(2, 90, WIDTH, dtype=torch.float64)
    mask = torch.rand(2, 90) < 0.6
    raw = streaming.raw(streaming.gather(torch.where(mask.unsqueeze(-1), h, torch.nan), mask))
    y = streaming.apply(h, streaming.affine_map(streaming.from_raw(raw, torch.float64)))
    torch.testing.assert_close(y[mask], attention(h, mask)[mask], rtol=1e-9, atol=1e-10)


def test_gradients_by_chunks(attention: Attention) -> None:
    """The road of a streamed backward pass: chunks to affine_map, affine_map to stats, stats to chunks."""
    streaming, h = streaming_form(attention), torch.randn(1, 90, WIDTH, dtype=torch.float64)
    upstream, parameters = torch.randn_like(h), list(attention.parameters())
    leaf = h.clone().requires_grad_()
    want = torch.autograd.grad(attention(leaf), [leaf, *parameters], upstream)

    sizes = [30, 1, 59]
    stats = streaming.from_raw(in_chunks(streaming, h, sizes), torch.float64)
    affine_map = AffineMap(*(tensor.detach().requires_grad_() for tensor in streaming.affine_map(stats)))
    chunks = [chunk.clone().requires_grad_() for chunk in h.split(sizes, dim=1)]
    for chunk, part in zip(chunks, upstream.split(sizes, dim=1), strict=True):
        streaming.apply(chunk, affine_map).backward(part)
    sums = AffineMap(*(tensor.grad for tensor in affine_map))  # type: ignore[arg-type]
    of_stats, of_parameters = streaming.backward(stats, sums, parameters)
    for chunk in chunks:
        tensors, grads = streaming.vjp(chunk * 1, stats, of_stats)
        torch.autograd.backward(tensors, grads)
    got = [0 if grad is None else grad for grad in of_parameters]
    got = [grad + (0 if p.grad is None else p.grad) for grad, p in zip(got, parameters, strict=True)]
    torch.testing.assert_close(torch.cat([c.grad for c in chunks], 1), want[0], rtol=1e-9, atol=1e-10)  # type: ignore[misc]
    for grad, wanted in zip(got, want[1:], strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-10)


def test_gradients_through_raw(attention: Attention) -> None:
    """The road over machines: what is added up is itself differentiable."""
    streaming, h = streaming_form(attention), torch.randn(2, 90, WIDTH, dtype=torch.float64)
    upstream, parameters = torch.randn_like(h), list(attention.parameters())
    leaf = h.clone().requires_grad_()
    want = torch.autograd.grad(attention(leaf), [leaf, *parameters], upstream)
    other = h.clone().requires_grad_()
    affine_map = streaming.affine_map(streaming.from_raw(in_chunks(streaming, other, [30, 60]), torch.float64))
    got = torch.autograd.grad(streaming.apply(other, affine_map), [other, *parameters], upstream)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


def test_pull_of_masked_tokens_is_zero(attention: Attention) -> None:
    streaming, h = streaming_form(attention), torch.randn(1, 20, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(20)[None] < 12
    stats = streaming.gather(h.detach(), mask)
    tensors, grads = streaming.vjp(h * 1, stats, [torch.randn_like(value) for value in stats.values], mask)
    torch.autograd.backward(tensors, grads)
    assert h.grad is not None
    assert h.grad[0, 12:].count_nonzero() == 0
    assert h.grad[0, :12].count_nonzero() == 12 * WIDTH


def test_pull_with_importance_ignores_padding_that_is_no_number() -> None:
    torch.manual_seed(0)
    made = create_attention("seqnorm", WIDTH, HEADS, importance=2.0).double()
    streaming, h = streaming_form(made), torch.randn(1, 20, WIDTH, dtype=torch.float64)
    mask, slopes = torch.arange(20)[None] < 12, []
    stats = streaming.gather(h, mask)
    pulls = [torch.randn_like(value) for value in stats.values]
    for padding in (0.0, torch.nan):
        made.zero_grad()
        leaf = torch.where(mask.unsqueeze(-1), h, padding).requires_grad_()
        torch.autograd.backward(*streaming.vjp(leaf * 1, stats, pulls, mask))
        slopes.append((leaf.grad, made.importance.weight.grad, made.importance.bias.grad))  # type: ignore[union-attr]
    torch.testing.assert_close(slopes[1], slopes[0])


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("softmax", {}, "no streaming form"),
        ("performer", {}, "no streaming form"),
        ("soft", {}, "no streaming form"),
        ("seqnorm", {"norm": "layer"}, "over the sequence"),
        ("seqnorm", {"norm": "batch"}, "over the sequence"),
        ("seqnorm", {"norm": "none"}, "over the sequence"),
        ("seqnorm", {"class_token_in_statistics": False, "num_prefix_tokens": 1}, "class token"),
        ("seqnorm", {"scale_norm": True}, "scale_norm"),
        ("sima", {"scale_norm": True}, "scale_norm"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"{reason}.*expected galerkin, seqnorm or sima"):
        streaming_form(create_attention(name, WIDTH, HEADS, **options))


def test_refuses_replaced_and_hooked_projections() -> None:
    attention = create_attention("sima", WIDTH, HEADS)
    handle = attention.qkv.register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="hooks"):
        streaming_form(attention)
    handle.remove()
    streaming_form(attention)
    attention.proj = torch.nn.Sequential(attention.proj)  # type: ignore[assignment]
    with pytest.raises(UserError, match="replaced"):
        streaming_form(attention)
