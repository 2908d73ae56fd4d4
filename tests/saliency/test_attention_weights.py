"""Rows of attention weights: they must reproduce the layer."""

from __future__ import annotations

import math

import pytest
import torch

from softfree.attention import ATTENTIONS, SeqNormAttention, create_attention
from softfree.saliency.methods.attention_weights import attention_row


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_rows_times_values_are_the_result(name: str, masked: bool) -> None:
    torch.manual_seed(0)
    module = create_attention(name, 24, 3, qkv_bias=True, dtype=torch.float64).eval()
    x = torch.randn(2, 20, 24, dtype=torch.float64)
    mask = torch.rand(2, 20) < 0.7 if masked else None
    if mask is not None:
        mask[:, 7] = True
    grid = (4, 5)
    seen = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
    q, *k, v = (module.split_heads(t) for t in module.qkv(seen).split(24, dim=-1))
    heads = None if mask is None else mask[:, None, :, None]
    want = module.mix(q, k[0] if k else q, v, heads, grid)[:, :, 7]  # (B, H, D)
    row = attention_row(module, x, 7, mask, grid)
    assert row.shape == (2, 3, 20)
    if name == "seqnorm":
        v = module.v_norm(v, heads, module.counted(v, heads))
    if name == "galerkin":
        v = module.v_norm(v)
    if mask is not None:
        assert (row.masked_select(~mask.unsqueeze(1)) == 0).all()
        v = v.masked_fill(~heads, 0)
    torch.testing.assert_close((row.unsqueeze(2) @ v).squeeze(2), want, rtol=1e-9, atol=1e-9)


def test_rows_of_softmax_are_its_weights() -> None:
    module = create_attention("softmax", 24, 3).eval()
    x = torch.randn(1, 20, 24)
    row = attention_row(module, x, 3)
    q, k, _ = (module.split_heads(t) for t in module.qkv(x).chunk(3, dim=-1))
    torch.testing.assert_close(row, torch.softmax(q[:, :, 3:4] @ k.mT / 8**0.5, -1).squeeze(2))


@pytest.mark.parametrize("normalized", ["qkv", "qk", "kv"])
@pytest.mark.parametrize("importance", [None, 2.0])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_rows_in_gram_order_are_those_of_the_formula(masked: bool, importance: float | None, normalized: str) -> None:
    torch.manual_seed(0)
    options = {"normalized": normalized, "importance": importance, "dtype": torch.float64}
    fast = SeqNormAttention(24, 3, order="gram", **options).eval()
    for parameter in fast.parameters():
        torch.nn.init.normal_(parameter)
    plain = SeqNormAttention(24, 3, order="literal", **options).eval()
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 20, 24, dtype=torch.float64) + 5
    weights, mask = torch.randn(2, 20, dtype=torch.float64), None
    if masked:
        mask = torch.rand(2, 20) < 0.7
        mask[:, 7] = True
        weights, x = weights.masked_fill(~mask, 0), x.masked_fill(~mask.unsqueeze(-1), math.nan)
    for rows in (lambda m: m.weighted_rows(x, weights, mask), lambda m: attention_row(m, x, 7, mask)):
        got, want = rows(fast), rows(plain)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        if mask is not None:
            assert (got.masked_select(~mask.unsqueeze(1)) == 0).all()


def test_weighted_rows_mix_the_values() -> None:
    """Rows of weights times the normalized values are the output, with an importance of the tokens too."""
    torch.manual_seed(0)
    module = SeqNormAttention(24, 3, order="literal", importance=2.0, dtype=torch.float64).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 20, 24, dtype=torch.float64)
    values = module.split_heads(module.qkv(x).chunk(3, dim=-1)[2])
    counted = module.token_weights(x, None)[:, None, :, None]
    rows = torch.stack([attention_row(module, x, token) for token in range(20)], dim=2)  # (1, H, N, N)
    out = rows @ module.v_norm(values, None, counted)
    torch.testing.assert_close(module.proj(out.transpose(1, 2).flatten(2)), module(x), rtol=1e-9, atol=1e-9)


def test_rows_in_gram_order_under_autocast() -> None:
    torch.manual_seed(0)
    module = SeqNormAttention(24, 3).eval()
    x = torch.randn(1, 512, 24)
    weights = torch.rand(1, 512) / 512
    assert module.order_for(x) == "gram"
    want = module.double().weighted_rows(x.double(), weights.double())
    with torch.autocast("cpu", torch.bfloat16):
        got = module.float().weighted_rows(x, weights)
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 0.02 * want.abs().max()
