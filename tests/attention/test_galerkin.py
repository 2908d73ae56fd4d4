"""What is particular to Galerkin attention: its norms, its start, and its kinship with SeqNorm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softfree.attention import Attention, GalerkinAttention, SeqNormAttention


def same_weights(module: Attention, other: Attention) -> None:
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in dict(module.named_parameters()):
                parameter.copy_(module.get_parameter(name))


def inputs(tokens: int = 40) -> Tensor:
    return torch.randn(2, tokens, 24, dtype=torch.float64) + 1


def test_it_is_seqnorm_with_layer_norm_of_keys_and_values() -> None:
    module = GalerkinAttention(24, 3, dtype=torch.float64)
    other = SeqNormAttention(24, 3, norm="layer", normalized="kv", init="unit", dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*module.k_norm.parameters(), *module.v_norm.parameters()):
            parameter.add_(torch.randn_like(parameter))
    same_weights(module, other)
    x = inputs()
    torch.testing.assert_close(module(x), other(x))


def test_its_instance_variant_is_seqnorm_of_keys_and_values() -> None:
    module = SeqNormAttention(24, 3, normalized="kv", init="unit", dtype=torch.float64)
    x = inputs()
    q, k, v = (t.unflatten(2, (3, 8)).transpose(1, 2) for t in (x @ module.qkv.weight.T).split(24, dim=2))
    k, v = ((t - t.mean(2, keepdim=True)) / (t.var(2, correction=0, keepdim=True) + 1e-5).sqrt() for t in (k, v))
    out = (q @ (k.mT @ v) / x.shape[1]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), out @ module.proj.weight.T + module.proj.bias)


def test_each_head_has_its_own_scale() -> None:
    module, (q, k, v) = GalerkinAttention(24, 3), torch.randn(3, 1, 3, 10, 8)
    before = module.mix(q, k, v, None)
    with torch.no_grad():
        module.v_norm.weight[8:16].mul_(2)  # of the second head
    after = module.mix(q, k, v, None)
    torch.testing.assert_close(after[:, 1], 2 * before[:, 1])
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])


def test_more_copies_of_the_tokens_change_nothing() -> None:
    module, x = GalerkinAttention(24, 3, dtype=torch.float64), inputs()
    torch.testing.assert_close(module(x.repeat(1, 5, 1))[:, :40], module(x))


@pytest.mark.parametrize("bias", [True, False])
def test_diagonal_init(bias: bool) -> None:
    module = GalerkinAttention(24, 3, diagonal_init=True, qkv_bias=bias)
    largest = 1e-4 * math.sqrt(6 / 48)
    for weight in module.qkv.weight.detach().chunk(3):
        noise = weight - 0.01 * torch.eye(24)
        assert 0.9 * largest < noise.abs().max() <= largest + 1e-8
    assert not bias or not module.qkv.bias.any()
    assert GalerkinAttention(24, 3).qkv.weight.abs().max() > 0.1


def test_loud_halves_do_not_overflow_in_the_norm() -> None:
    module = GalerkinAttention(24, 3, dtype=torch.float16)
    q, k, v = (1e4 * torch.randn(3, 1, 3, 50, 8)).half()
    out = module.mix(q / 1e4, k, v, None)
    want = module.float().mix(q.float() / 1e4, k.float(), v.float(), None)
    torch.testing.assert_close(out.float(), want, rtol=0.01, atol=0.01)
