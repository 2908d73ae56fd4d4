import pytest
import torch

from softfree.conversion import fit as module
from softfree.conversion.errors import relative_error
from softfree.conversion.fit import fit


@pytest.fixture
def case(make_attention, make_target):
    source = make_attention(4.0)
    torch.manual_seed(1)
    inputs = [torch.randn(2, 40, 24, dtype=torch.float64) for _ in range(2)]
    with torch.no_grad():
        return make_target(source), inputs, [source(x) for x in inputs]


def test_steps_come_closer_by_scales_and_shifts_alone(case):
    target, inputs, wanted = case
    before = {name: t.clone() for name, t in target.state_dict().items()}
    first = relative_error(target, inputs, wanted)
    fit(target, inputs, wanted, 60)
    assert relative_error(target, inputs, wanted) < 0.9 * first
    changed = {name for name, t in target.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {f"{letter}_norm.{kind}" for letter in "qkv" for kind in ("weight", "bias")}
    assert all(parameter.grad is None for parameter in target.parameters())


def test_what_brings_nothing_is_undone(case, monkeypatch):
    target, inputs, wanted = case
    before = {name: t.clone() for name, t in target.state_dict().items()}
    monkeypatch.setattr(module, "RATE", 100.0)
    fit(target, inputs, wanted, 3)
    assert all(torch.equal(t, before[name]) for name, t in target.state_dict().items())


def test_the_best_constant_has_error_one():
    torch.manual_seed(0)
    wanted = [torch.randn(2, 5, 3) + 7, torch.randn(1, 9, 3) + 7]
    mean = torch.cat([batch.flatten(0, 1) for batch in wanted]).mean(0)
    assert relative_error(lambda x: mean.expand_as(x), wanted, wanted) == pytest.approx(1, abs=1e-6)
    assert relative_error(lambda x: x, wanted, wanted) == 0
