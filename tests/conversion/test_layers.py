import pytest
import torch

from softfree.conversion.layers import attention_inputs
from softfree.models import VisionTransformer


@pytest.mark.parametrize("options", [{}, {"pos_conv": True}, {"pool": "token"}], ids=str)
def test_inputs_are_those_of_a_whole_pass(options):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, embed_dim=16, depth=3, num_heads=2, attention="softmax", **options).eval()
    images = [torch.randn(2, 3, 32, 32), torch.randn(1, 3, 48, 32)]
    seen: dict[int, list[torch.Tensor]] = {number: [] for number in range(3)}
    for number, block in enumerate(model.blocks):
        block.attn.register_forward_pre_hook(lambda _, given, number=number: seen[number].append(given[0]))
    for batch in images:
        model(batch)
    wanted = {number: list(batches) for number, batches in seen.items()}
    found = list(attention_inputs(model, images))
    assert len(found) == 3
    for number, batches in enumerate(found):
        assert [batch.shape[0] for batch in batches] == [2, 1]
        for got, want in zip(batches, wanted[number], strict=True):
            torch.testing.assert_close(got, want)


def test_no_hook_is_left_behind():
    model = VisionTransformer(32, 8, embed_dim=16, depth=2, num_heads=2, attention="softmax").eval()
    list(attention_inputs(model, [torch.randn(1, 3, 32, 32)]))
    assert not any(module._forward_pre_hooks for module in model.modules())
