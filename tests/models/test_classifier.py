from typing import Any

import pytest
import torch

from softfree.models import create_model


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("seqnorm_vit_nano_patch16", (2, 3, 32, 48), {}),
        ("seqnorm_vit_nano_patch16", (2, 3, 32, 48), {"pool": "token"}),
        ("seqnorm_vit_nano_patch16", (2, 3, 32, 48), {"pos": "none"}),
        ("seqnorm_vit3d_nano", (2, 1, 8, 16, 16), {}),
        ("seqnorm_bag_nano", (2, 5, 1027), {}),
        ("soft_tiny", (2, 3, 64, 64), {}),
    ],
)
def test_logits_are_float32_under_autocast(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **options).eval()
    x = torch.randn(shape)
    with torch.no_grad(), torch.autocast(torch.get_default_device().type, torch.bfloat16):
        tokens = model.forward_features(x)
        features = model.forward_head(tokens, pre_logits=True)
        logits = model.forward_head(tokens)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model.head(features.float()))
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_without_autocast_the_type_is_that_of_the_weights(dtype: torch.dtype) -> None:
    model = create_model("seqnorm_vit_nano_patch16", num_classes=2).to(dtype)
    x = torch.randn(1, 3, 32, 32, dtype=dtype)
    assert model(x).dtype == dtype
    model.reset_classifier(0)
    assert model(x).dtype == dtype
