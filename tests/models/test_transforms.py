"""torch.func's transforms through whole models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from softfree.models import BagTransformer, SoftPyramid, VisionTransformer, VolumeTransformer
from softfree.models.pooling import POOLINGS

SHAPE = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 2}
PADDED = torch.cat([torch.randn(3, 50, 19), torch.full((3, 4, 19), float("nan"))], dim=1)
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's fused kernel under vmap
MODELS: dict[str, tuple[nn.Module, Tensor]] = {
    "image": (VisionTransformer(32, 8, **SHAPE), torch.randn(3, 3, 40, 24)),
    "stem": (VisionTransformer(32, 8, stem="conv", pos_conv=True, **SHAPE), torch.randn(3, 3, 40, 24)),
    "in parts": (VisionTransformer(32, 8, mlp_chunk=4, **SHAPE), torch.randn(3, 3, 40, 24)),
    "volume": (VolumeTransformer((8, 16, 16), (4, 8, 8), 1, stem="conv", **SHAPE), torch.randn(3, 1, 8, 24, 16)),
    "bag": (BagTransformer(16, **SHAPE), torch.randn(3, 50, 19)),
    "padded bag": (BagTransformer(16, **SHAPE), PADDED),
    **{f"padded bag, {pool}": (BagTransformer(16, pool=pool, **SHAPE), PADDED) for pool in POOLINGS},
    "pyramid": (
        SoftPyramid(32, num_classes=2, embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)).eval(),
        torch.randn(3, 3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_samples_together_are_samples_alone(name: str) -> None:
    model, x = MODELS[name]
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(vmap(lambda t: model(t[None])[0])(x), model(x), rtol=1e-4, atol=1e-5)

    def loss(parameters: dict[str, Tensor], t: Tensor) -> Tensor:
        return functional_call(model, parameters, (t[None],)).square().sum()

    got = vmap(grad(loss), (None, 0))(parameters, x)
    for row, sample in enumerate(x):
        model.zero_grad()
        model(sample[None]).square().sum().backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(got[key][row], parameter.grad, rtol=1e-3, atol=1e-4)


def test_jacobian_of_a_bag_is_the_gradient_of_each_class() -> None:
    """As heat maps of slides are drawn."""
    model, x = MODELS["padded bag"]
    got = jacrev(model)(x[:1])[0, :, 0]  # (K, N, F + 3)
    for number in range(2):
        leaf = x[:1].clone().requires_grad_()
        model(leaf)[0, number].backward()
        torch.testing.assert_close(got[number, :50], leaf.grad[0, :50], rtol=1e-4, atol=1e-6)


def test_recomputed_blocks() -> None:
    model, x = VisionTransformer(32, 8, **SHAPE), torch.randn(1, 3, 32, 32)
    want = jacrev(model)(x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(jacrev(model)(x), want)
