"""Weights of images in a model of volumes: a volume that is constant along its depth gives the image's logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from softfree.models import VisionTransformer, VolumeTransformer, load_inflated
from softfree_runtime.core.errors import UserError

SHARED = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
FLAT = {**SHARED, "img_size": 32, "patch_size": 8}
DEEP = {**SHARED, "img_size": (8, 32, 32), "patch_size": (2, 8, 8)}


def started(model: nn.Module) -> nn.Module:
    """Random weights, none of which is zero or one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def save(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def deep(**options: object) -> VolumeTransformer:
    return VolumeTransformer(**{**DEEP, **options}).double().eval()


def constant(images: torch.Tensor, depth: int = 8) -> torch.Tensor:
    return images.unsqueeze(2).expand(-1, -1, depth, -1, -1)


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize("pos", ["learn", "none"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("attention", ["softmax", "seqnorm", "galerkin"])
def test_the_logits_of_the_image(tmp_path: Path, attention: str, stem: str, pos: str) -> None:
    options = {"attention": attention, "stem": stem, "pos": pos, "in_chans": 3}
    flat, model = started(VisionTransformer(**FLAT, **options)), deep(**options)
    report = load_inflated(model, save(flat, tmp_path))
    assert set(report.matched + report.resized) == set(model.state_dict()) == set(flat.state_dict())
    inflated = {name for name, t in flat.state_dict().items() if t.shape != model.state_dict()[name].shape}
    assert set(report.resized) == inflated
    assert len(inflated) == (3 if stem == "conv" else 1) + (pos == "learn")
    x = images()
    torch.testing.assert_close(model(constant(x)), flat(x), rtol=1e-10, atol=1e-10)


def test_a_class_token_with_one_layer_of_tokens(tmp_path: Path) -> None:
    """timm's own weights; the class token attends to each position once, as in the image."""
    options = {**SHARED, "img_size": 32, "patch_size": 8}
    flat = started(timm.create_model("vit_tiny_patch16_224", pretrained=False, **options))
    model = deep(attention="softmax", pool="token", pos="learn", img_size=(2, 32, 32), in_chans=3)
    report = load_inflated(model, save(flat, tmp_path))
    assert report.resized == ("patch_embed.proj.weight",)
    assert report.new == report.dropped == ()
    x = images()
    torch.testing.assert_close(model(constant(x, 2)), flat(x), rtol=1e-10, atol=1e-10)


def test_one_channel_from_color_weights(tmp_path: Path) -> None:
    flat = started(VisionTransformer(**FLAT, pos="none"))
    model = deep(pos="none", in_chans=1)
    load_inflated(model, save(flat, tmp_path))
    gray = images(1)
    # timm adds the channels up in single precision.
    torch.testing.assert_close(model(constant(gray)), flat(gray.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-6)


def test_fixed_codes_take_the_place_of_learned_positions(tmp_path: Path) -> None:
    flat, model = started(VisionTransformer(**FLAT)), deep(pos="mm", in_chans=3)
    report = load_inflated(model, save(flat, tmp_path))
    assert report.dropped == ("pos_embed",)
    assert report.new == ()
    tokens, _ = model.patch_embed(constant(images()))
    assert torch.equal(tokens[:, :16], tokens[:, 16:32]), "the projection sees the same in each layer"


def test_positions_of_another_grid_and_class_token(tmp_path: Path) -> None:
    flat = started(VisionTransformer(**FLAT, pool="token"))
    model = deep(pos="learn", img_size=(6, 40, 16), in_chans=3)
    report = load_inflated(model, save(flat, tmp_path))
    assert "pos_embed" in report.resized
    assert report.dropped == ("cls_token",)
    layers = model.pos_embed.unflatten(1, (3, 10))
    assert torch.equal(layers[:, 0], layers[:, 2])


def test_patches_of_another_side_keep_what_they_see(tmp_path: Path) -> None:
    """A constant image gives each patch of the same constant about the same token."""
    flat, model = started(VisionTransformer(**FLAT)), deep(patch_size=(4, 16, 8), in_chans=3)
    load_inflated(model, save(flat, tmp_path))
    assert model.patch_embed.proj.weight.shape == (24, 3, 4, 16, 8)
    depth = model.patch_embed.proj.weight
    assert torch.equal(depth[:, :, 0], depth[:, :, 3])
    ones = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    tokens, _ = model.patch_embed(constant(ones))
    torch.testing.assert_close(tokens[0, 0], flat.patch_embed(ones)[0][0, 0], rtol=0.1, atol=0.1)


def test_weights_of_volumes_stay_as_they_are(tmp_path: Path) -> None:
    given, model = started(deep(pos="learn")), deep(pos="learn")
    report = load_inflated(model, save(given, tmp_path))
    assert set(report.matched) == set(model.state_dict())
    assert all(torch.equal(t, given.state_dict()[name]) for name, t in model.state_dict().items())


def test_weights_of_another_width(tmp_path: Path) -> None:
    flat = VisionTransformer(**{**FLAT, "embed_dim": 48})
    with pytest.raises(UserError, match="has width 48, the model 24"):
        load_inflated(deep(), save(flat, tmp_path))
