"""The attentions on trial start as plain SeqNorm and softmax."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from softfree.attention.seqnorm import SeqNormAttention

TRIALS = Path(__file__).parents[3] / "benchmarks" / "trials"


@pytest.fixture(scope="module")
def trials(own_attentions: None) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(TRIALS))
        yield import_module("rare_evidence")
    sys.modules.pop("rare_evidence")


def test_trials_begin_as_what_they_change(trials) -> None:
    torch.manual_seed(0)
    x, plain = torch.randn(2, 37, 48), SeqNormAttention(48, 4)
    spiky = trials.SpikySeqNorm(48, 4, power=1.0)
    spiky.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(spiky(x), plain(x), atol=1e-5, rtol=1e-4)
    softmax = trials.ScalableSoftmax(48, 4)
    q, k, v = (softmax.split_heads(t) for t in softmax.qkv(x).chunk(3, dim=-1))
    scores = (q @ k.mT) / 12**0.5 * 0.168 * torch.tensor(37.0).log()
    torch.testing.assert_close(softmax.mix(q, k, v, None), scores.softmax(-1) @ v, atol=1e-5, rtol=1e-4)
