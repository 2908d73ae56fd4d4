import pytest
import torch

from softfree.attention import ATTENTIONS
from softfree.explain.tokens import token_map
from softfree.models import VisionTransformer


def model(attention: str) -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(32, 8, 1, 2, 32, 2, 2, attention=attention)
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made.eval().double()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_patch_has_its_mean_slope_while_all_tokens_grow(attention):
    network = model(attention)
    pixels = torch.randn(2, 1, 32, 40, dtype=torch.float64)
    found = token_map(network, pixels, 1, steps=3)
    assert found.shape == (2, 4, 5)
    row, column, step = 2, 3, 1e-5

    def logit(part: float, more: float) -> torch.Tensor:
        def change(_module, given):
            tokens = given[0] * part
            tokens[:, row * 5 + column] += more * given[0][:, row * 5 + column]
            return (tokens, *given[1:])

        handle = network.blocks.register_forward_pre_hook(change)
        with torch.no_grad():
            value = network(pixels)[:, 1]
        handle.remove()
        return value

    slopes = [(logit(part, step) - logit(part, -step)) / (2 * step) for part in (1 / 6, 1 / 2, 5 / 6)]
    # SOFT's gradient is that of the exact inverse, which its iteration comes close to.
    tolerance = 1e-3 if attention in ("soft", "soft_norm") else 1e-5
    torch.testing.assert_close(found[:, row, column], sum(slopes) / 3, rtol=tolerance, atol=1e-7)


def test_the_map_leaves_the_model_as_it_was():
    network = model("seqnorm")
    token_map(network, torch.randn(1, 1, 32, 32, dtype=torch.float64), 0)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.blocks._forward_pre_hooks
