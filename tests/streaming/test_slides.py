"""A slide with clinical variables that streams against the same slide in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from softfree.models.registry import create_slide_model
from softfree.streaming import Streaming, streamed
from softfree.streaming.parallel import check_model
from softfree_runtime.core.errors import UserError

GradientsOf = Callable[[nn.Module, Tensor], dict[str, Tensor]]
VARIABLES = [{"mean": 60.0, "std": 9.0}, {"categories": 2}, {"mean": 1.0, "std": 2.0}]


@pytest.mark.parametrize(("stem", "pool"), [("pool", "mean_topk"), ("patch", "token")])
@pytest.mark.parametrize("width", [2, 30])
def test_as_in_memory(stem: str, pool: str, width: int, gradients_of: GradientsOf) -> None:
    torch.manual_seed(0)
    options = {
        "img_size": (50, width),
        "num_classes": 3,
        "depth": 2,
        "embed_dim": 24,
        "num_heads": 3,
        "stem": stem,
        "pool": pool,
    }
    model = create_slide_model("seqnorm_vit_nano_patch8", {"variables": VARIABLES}, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = model.double()
    slide = torch.randn(4, 50, width, dtype=torch.float64)
    slide[3].view(-1)[:3] = torch.tensor([70.0, 2.0, torch.nan])
    expected = gradients_of(model, model(slide[None]))
    got = streamed(model, slide, Streaming(chunk=5))
    torch.testing.assert_close(got, model(slide[None]), rtol=1e-9, atol=1e-10)
    found = gradients_of(model, got)
    assert expected.keys() == found.keys() >= {"variable_embed.embeddings.1.weight"}
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9, msg=name)
    with pytest.raises(UserError, match="expected 4 channels"):
        streamed(model, slide[:3])
    with pytest.raises(UserError, match="SlideTransformer cannot be sharded"):
        check_model(model)
