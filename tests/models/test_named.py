"""Every named model runs, and timm knows it."""

from __future__ import annotations

import pytest
import timm
import torch

from softfree.attention import ATTENTIONS
from softfree.models import VisionTransformer, create_model, list_models
from softfree.models.named import NAMED
from softfree_runtime.core.errors import UserError

WIDTHS = {"nano": (128, 6, 4), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}


def test_names() -> None:
    sides = (8, 16, 32)
    assert set(NAMED) == {f"{a}_vit_{size}_patch{p}" for a in ATTENTIONS for size in WIDTHS for p in sides}
    assert set(NAMED) <= set(list_models())
    assert set(timm.list_models("seqnorm_*")) == {name for name in list_models() if name.startswith("seqnorm")}


@pytest.mark.parametrize("name", NAMED)
def test_shape(name: str) -> None:
    """Parameters counted from the published sizes."""
    attention, _, size, patch = name.rsplit("_", 3)
    width, depth, heads = WIDTHS[size]
    side = int(patch.removeprefix("patch"))
    with torch.device("meta"):
        model = create_model(name, img_size=224, num_classes=10)
    # SeqNorm has scales and shifts in place of a bias, Galerkin has them for K and V, Linformer two stacks of maps;
    # SOFT has no keys.
    keys = -(width**2) - width
    own = {"seqnorm": 3 * width, "galerkin": 4 * width, "linformer": 2 * 64 * 14**2, "soft": keys, "soft_norm": keys}
    block = 12 * width**2 + 13 * width + own.get(attention, 0)
    want = depth * block + (3 * side**2 + 1) * width + (224 // side) ** 2 * width + 2 * width + 10 * (width + 1)
    assert sum(p.numel() for p in model.parameters()) == want
    assert model.blocks[0].attn.num_heads == heads
    assert type(model.blocks[0].attn) is ATTENTIONS[attention]


@pytest.mark.parametrize("name", NAMED)
def test_runs(name: str) -> None:
    """Forward and backward, an odd size, other channel counts, a mask, checkpointing; one block, to save time."""
    model = timm.create_model(name, img_size=64, num_classes=3, depth=1).eval()
    x = torch.randn(1, 3, 70, 45)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g.isfinite().all() for g in gradients[0])
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 250, 187)).shape == (1, 3)
        gray = torch.randn(1, 1, 64, 64)
        for channels in (3, 4):
            torch.testing.assert_close(model(gray), model(gray.expand(-1, channels, -1, -1)), rtol=1e-3, atol=1e-4)
        tokens = 64 // model.patch_size
        mask = torch.zeros(1, tokens, tokens, dtype=torch.bool)
        mask[:, : tokens // 2, : tokens // 2] = True
        image = torch.randn(1, 3, 32, 32)
        zeros, noise = (torch.nn.functional.pad(image, (0, 32, 0, 32), value=value) for value in (0.0, 99.0))
        torch.testing.assert_close(model(noise, mask.flatten(1)), model(zeros, mask.flatten(1)))


def test_options_win_over_the_name() -> None:
    model = timm.create_model("seqnorm_vit_small_patch16", img_size=1024, depth=1, num_classes=2, in_chans=1)
    assert isinstance(model, VisionTransformer)
    assert model.pos_embed.shape == (1, 64 * 64, 384)
    assert len(model.blocks) == 1
    assert model.patch_embed.proj.weight.shape[1] == 1


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean seqnorm_vit_tiny_patch16"):
        create_model("seqnorm_vit_tiny_patch_16")


def test_unknown_option() -> None:
    with pytest.raises(UserError, match="option of sima_vit_nano_patch16: 'clas_token': did you mean class_token"):
        create_model("sima_vit_nano_patch16", clas_token=True)


def test_weights_that_nobody_has_published() -> None:
    with pytest.raises(UserError, match="load_pretrained"):
        timm.create_model("seqnorm_vit_tiny_patch16", pretrained=True)
