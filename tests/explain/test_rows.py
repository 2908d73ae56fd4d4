"""Rows of attention weights: they must reproduce the layer."""

from __future__ import annotations

import pytest
import torch

from softfree.attention import ATTENTIONS, create_attention
from softfree.explain.rows import attention_row


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
