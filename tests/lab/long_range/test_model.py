"""The sequence model, for every attention by name."""

from __future__ import annotations

import pytest
import torch

from softfree.attention import ATTENTIONS
from softfree_lab.long_range.dropout import SteppedDropout, begin_step
from softfree_lab.long_range.model import SequenceModel, options_for

OWN = [name for name, method in ATTENTIONS.items() if method.__module__.startswith("softfree.")]


def create(attention: str = "seqnorm", towers: int = 1) -> SequenceModel:
    torch.manual_seed(0)
    options = options_for(attention, 64, features=16)
    return SequenceModel(15, 64, 10, attention=attention, attention_options=options, towers=towers)


@pytest.mark.parametrize("attention", OWN)
def test_padding_and_other_samples_change_nothing(attention: str) -> None:
    model = create(attention).eval()
    short, long = torch.randint(1, 16, (1, 41)), torch.randint(1, 16, (1, 60))
    both = torch.cat([torch.nn.functional.pad(short, (0, 19)), long])
    with torch.no_grad():
        got = model(both, both > 0)
        want = torch.cat([model(short), model(long)])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["soft", "soft_norm", "nystromformer"])
def test_landmarks_cover_the_sequence(attention: str) -> None:
    model = create(attention)
    assert model.blocks[0].attn.landmarks == 16
    model(torch.randint(1, 16, (2, 50))).sum().backward()
    assert all(weight.grad is not None for weight in model.blocks.parameters())


def test_positions_matter() -> None:
    model, symbols = create().eval(), torch.arange(1, 11).unsqueeze(0)
    assert not torch.allclose(model(symbols), model(symbols.flip(1)), atol=1e-6)


def test_two_towers_see_both_texts() -> None:
    model = create(towers=2).eval()
    symbols = torch.randint(1, 16, (4, 20))
    logits = model(symbols)
    assert logits.shape == (2, 10)
    first, second = model(symbols[:2]), model(symbols[[1, 0]])
    torch.testing.assert_close(logits[:1], first)
    assert not torch.allclose(first, second, atol=1e-6)


def test_dropout_of_the_right_rate() -> None:
    layer, x = SteppedDropout(0.1).train(), torch.ones(1000, 100)
    out = layer(x)
    assert (out == 0).double().mean().item() == pytest.approx(0.1, abs=0.004)
    assert out.max().item() == pytest.approx(1 / 0.9, rel=1e-4)
    assert layer.eval()(x) is x


def test_dropout_depends_on_seed_and_step_alone() -> None:
    layers = torch.nn.ModuleList([SteppedDropout(0.5), SteppedDropout(0.5)]).train()

    def drawn(seed: int, step: int) -> list[torch.Tensor]:
        begin_step(layers, seed, step)
        return [layer(torch.ones(64)) for layer in layers]

    first, second = drawn(1, 2)
    assert not torch.equal(first, second)
    assert torch.equal(drawn(1, 2)[1], second)
    assert not torch.equal(drawn(1, 3)[0], first)
    assert not torch.equal(drawn(2, 2)[0], first)


def test_no_dropout_of_torch_is_left() -> None:
    assert not [module for module in create("softmax").modules() if type(module) is torch.nn.Dropout]
