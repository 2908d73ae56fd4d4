"""The attentions on trial start as plain SeqNorm, and weights count tokens."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from softfree.attention.seqnorm import SeqNormAttention

TRIALS = Path(__file__).parents[3] / "benchmarks" / "trials"


@pytest.fixture(scope="module")
def trials(own_attentions: None) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(TRIALS))
        yield import_module("rare_evidence")
    sys.modules.pop("rare_evidence")


class Repetitions(nn.Module):
    """Weights of 1, and of 2 for the first token, whatever the tokens are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(*x.shape[:2], 1)
        weights[:, 0] = 2
        return weights.expm1().log()  # the inverse of softplus


def test_trials_begin_as_seqnorm_and_a_weight_of_two_is_a_token_twice(trials) -> None:
    torch.manual_seed(0)
    x, plain = torch.randn(2, 37, 48), SeqNormAttention(48, 4)
    weighted, spiky = trials.WeightedSeqNorm(48, 4), trials.SpikySeqNorm(48, 4, power=1.0)
    for module in (weighted, spiky):
        module.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(module(x), plain(x), atol=1e-5, rtol=1e-4)
    weighted.importance = Repetitions()
    twice = plain(torch.cat([x[:, :1], x], dim=1))[:, 1:]
    torch.testing.assert_close(weighted(x), twice, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(twice, plain(x), atol=1e-3)
    softmax = trials.ScalableSoftmax(48, 4)
    q, k, v = (softmax.split_heads(t) for t in softmax.qkv(x).chunk(3, dim=-1))
    scores = (q @ k.mT) / 12**0.5 * 0.168 * torch.tensor(37.0).log()
    torch.testing.assert_close(softmax.mix(q, k, v, None), scores.softmax(-1) @ v, atol=1e-5, rtol=1e-4)
