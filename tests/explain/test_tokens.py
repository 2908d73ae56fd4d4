import pytest
import torch

from softfree.attention import ATTENTIONS
from softfree.explain.tokens import token_map
from softfree.models import VisionTransformer


def model(attention: str, pool: str = "avg") -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(32, 8, 1, 2, 32, 2, 2, attention=attention, pool=pool)
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made.eval().double()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_map_is_the_slope_when_a_token_shrinks(attention, pool):
    network = model(attention, pool)
    pixels = torch.randn(2, 1, 32, 40, dtype=torch.float64)
    found = token_map(network, pixels, 1)
    assert found.shape == (2, 4, 5)
    row, column, step = 2, 3, 1e-5

    def logit(factor: float) -> torch.Tensor:
        def shrink(_module, arguments):
            tokens = arguments[0].clone()
            tokens[:, network.num_prefix_tokens + row * 5 + column] *= factor
            return (tokens, *arguments[1:])

        handle = network.blocks.register_forward_pre_hook(shrink)
        with torch.no_grad():
            value = network(pixels)[:, 1]
        handle.remove()
        return value

    slope = (logit(1 + step) - logit(1 - step)) / (2 * step)
    torch.testing.assert_close(found[:, row, column], slope, rtol=1e-5, atol=1e-8)


def test_the_map_leaves_the_model_as_it_was():
    network = model("seqnorm")
    token_map(network, torch.randn(1, 1, 32, 32, dtype=torch.float64), 0)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.blocks._forward_pre_hooks
