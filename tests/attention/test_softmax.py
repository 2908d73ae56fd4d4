"""What only softmax attention has: normalized queries and keys, dropout on its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.attention import SoftmaxAttention


def standardize(t: Tensor) -> Tensor:
    return (t - t.mean(3, keepdim=True)) / (t.var(3, correction=0, keepdim=True) + 1e-5).sqrt()


def test_query_and_key_norm() -> None:
    module = SoftmaxAttention(24, 3, qk_norm=True, dtype=torch.float64)
    q, k, v = torch.randn(3, 2, 3, 12, 8, dtype=torch.float64)
    with torch.no_grad():
        module.q_norm.weight.fill_(2)
        module.k_norm.bias.fill_(0.5)
    scores = (2 * standardize(q)) @ (standardize(k) + 0.5).transpose(2, 3) / 8**0.5
    torch.testing.assert_close(module.mix(q, k, v, None), scores.softmax(3) @ v)


def test_dropout_of_the_weights() -> None:
    x, module = torch.randn(1, 12, 24), SoftmaxAttention(24, 3, attn_drop=0.5)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
