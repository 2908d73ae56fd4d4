import pytest
import torch

from softfree.conversion import fit as module
from softfree.conversion.fit import attention_inputs, fit, relative_error
from softfree.models import VisionTransformer


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
    monkeypatch.setattr(module, "LEARNING_RATE", 100.0)
    fit(target, inputs, wanted, 3)
    assert all(torch.equal(t, before[name]) for name, t in target.state_dict().items())


def test_the_best_constant_has_error_one():
    torch.manual_seed(0)
    wanted = [torch.randn(2, 5, 3) + 7, torch.randn(1, 9, 3) + 7]
    mean = torch.cat([batch.flatten(0, 1) for batch in wanted]).mean(0)
    assert relative_error(lambda x: mean.expand_as(x), wanted, wanted) == pytest.approx(1, abs=1e-6)
    assert relative_error(lambda x: x, wanted, wanted) == 0


@pytest.mark.parametrize("options", [{}, {"pos_conv": True}, {"pool": "token"}], ids=str)
def test_inputs_are_those_of_a_whole_pass(options):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, embed_dim=16, depth=3, num_heads=2, attention="softmax", **options).eval()
    images = [torch.randn(2, 3, 32, 32), torch.randn(1, 3, 48, 32)]
    inputs: dict[int, list[torch.Tensor]] = {number: [] for number in range(3)}
    for number, block in enumerate(model.blocks):
        block.attn.register_forward_pre_hook(lambda _, arguments, number=number: inputs[number].append(arguments[0]))
    for batch in images:
        model(batch)
    wanted = {number: list(batches) for number, batches in inputs.items()}
    result = list(attention_inputs(model, images))
    assert len(result) == 3
    for number, batches in enumerate(result):
        assert [batch.shape[0] for batch in batches] == [2, 1]
        for got, want in zip(batches, wanted[number], strict=True):
            torch.testing.assert_close(got, want)


def test_no_hook_is_left_behind():
    model = VisionTransformer(32, 8, embed_dim=16, depth=2, num_heads=2, attention="softmax").eval()
    list(attention_inputs(model, [torch.randn(1, 3, 32, 32)]))
    assert not any(module._forward_pre_hooks for module in model.modules())
