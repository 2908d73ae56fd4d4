"""The volume transformer: sizes, channels, masks, positions, and its interfaces to timm and the hub."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from softfree.attention import ATTENTIONS
from softfree.models import VolumeTransformer, create_model, list_models
from softfree.models.registry import VOLUME_MODELS
from softfree_runtime.core.errors import UserError

SMALL = {
    "img_size": (8, 16, 16),
    "patch_size": (2, 4, 8),
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}


def make(**options: object) -> VolumeTransformer:
    model = VolumeTransformer(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def volumes(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("pos", ["mm", "learn", "none"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_any_size(pool: str, stem: str, pos: str) -> None:
    model = make(pool=pool, stem=stem, pos=pos)
    for sides in ((8, 16, 16), (5, 9, 17), (1, 21, 3)):
        grid = [-(-side // part) for side, part in zip(sides, (2, 4, 8), strict=True)]
        x = volumes(2, 1, *sides)
        assert model.forward_features(x).shape == (2, (pool == "token") + math.prod(grid), 24)
        assert model(x.expand(-1, 3, -1, -1, -1)).shape == (2, 5)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in VOLUME_MODELS if "_nano" in name])
def test_named(name: str) -> None:
    """Every attention by timm: forward, backward, a volume whose sides are no multiples."""
    model = timm.create_model(name, depth=1, num_classes=3)
    assert isinstance(model, VolumeTransformer)
    assert isinstance(model.blocks[0].attn, ATTENTIONS[name.removesuffix("_vit3d_nano")])
    model(torch.randn(2, 1, 9, 20, 15)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_names() -> None:
    sizes = ("nano", "tiny", "small", "base")
    assert set(VOLUME_MODELS) == {f"{attention}_vit3d_{size}" for attention in ATTENTIONS for size in sizes}
    assert set(VOLUME_MODELS) <= set(list_models())
    model = create_model("seqnorm_vit3d_small", depth=1, patch_size=[8, 8, 8], in_chans=3, num_classes=2)
    assert model.patch_embed.proj.weight.shape == (384, 3, 8, 8, 8)
    with pytest.raises(UserError, match="option of seqnorm_vit3d_tiny: 'spacng': did you mean spacing"):
        create_model("seqnorm_vit3d_tiny", spacng=1)


@pytest.mark.parametrize(
    ("attention", "options"),
    [("soft", {"conv": 3}), ("nystromformer", {"conv": 3}), ("linformer", {"reference": (2, 2, 2)})],
)
def test_attentions_that_know_the_grid(attention: str, options: dict[str, object]) -> None:
    assert make(attention=attention, attention_options=options)(volumes(1, 1, 8, 8, 16)).isfinite().all()


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padded_tokens_change_nothing(attention: str, stem: str, pool: str) -> None:
    model = make(attention=attention, stem=stem, pool=pool)
    x, mask = volumes(2, 1, 4, 12, 16), torch.rand(2, 12) > 0.5
    mask[:, 0] = True
    voxels = mask.view(2, 1, 2, 3, 2)
    for axis, side in enumerate((2, 4, 8), start=2):
        voxels = voxels.repeat_interleave(side, axis)
    logits = model(x, mask)
    torch.testing.assert_close(model(x.where(voxels, 1e3), mask), logits, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model(x), logits, rtol=1e-4)
    torch.testing.assert_close(model(x[1:], mask[1:]), logits[1:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_positions_make_places_different(attention: str) -> None:
    x = volumes(1, 1, 4, 8, 16)
    shuffled = x.roll((2, 4, 8), dims=(2, 3, 4))
    without, placed = make(attention=attention, pos="none"), make(attention=attention)
    if attention != "linformer":  # its maps depend on positions
        torch.testing.assert_close(without(x), without(shuffled))
    assert not torch.allclose(placed(x), placed(shuffled), rtol=1e-4)


def test_the_same_anatomy_at_another_spacing() -> None:
    """Each voxel split into eight, patches of twice as many: the sums of a patch, and so the logits, are the same."""
    coarse = make(spacing=(2.0, 1.0, 1.0))
    fine = make(spacing=(1.0, 0.5, 0.5), patch_size=(4, 8, 16))
    weights = coarse.state_dict()
    split = weights["patch_embed.proj.weight"]
    for axis in (2, 3, 4):
        split = split.repeat_interleave(2, axis)
    fine.load_state_dict({**weights, "patch_embed.proj.weight": split / 8})
    x = volumes(2, 1, 6, 12, 16)
    resampled = x.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    torch.testing.assert_close(fine(resampled), coarse(x), rtol=1e-9, atol=1e-9)
    fine.spacing = (1.0, 1.0, 1.0)
    assert not torch.allclose(fine(resampled), coarse(x), rtol=1e-4)


def test_groups_of_timm() -> None:
    model = make(pool="token", pos="learn")
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    assert {"pos_embed", "cls_token", "head.bias"} <= {names[i] for i in spared}
    layers = param_groups_layer_decay(model, layer_decay=0.5)
    rate = {names[id(p)]: group["lr_scale"] for group in layers for p in group["params"]}
    assert rate["patch_embed.proj.weight"] < rate["blocks.0.attn.qkv.weight"] < rate["head.weight"] == 1


def test_checkpointing_equals() -> None:
    model, x, gradients = make(), volumes(2, 1, 8, 16, 16), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("options", [{"pos": "learn", "pool": "token"}, {"stem": "conv", "spacing": (3.0, 1.0, 1.0)}])
def test_saved_and_loaded(tmp_path: Path, options: dict[str, object]) -> None:
    model = VolumeTransformer(**{**SMALL, **options}).eval()
    model.reset_classifier(3)
    model.save_pretrained(tmp_path)
    again = VolumeTransformer.from_pretrained(tmp_path, strict=True)
    assert again.spacing == model.spacing
    x = torch.randn(2, 1, 9, 20, 15)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pos": "sincos"}, "Unknown pos 'sincos'"),
        ({"stem": "convs"}, "did you mean conv"),
        ({"patch_size": (4, 8)}, r"patch_size=\(4, 8\): expected three numbers above zero"),
        ({"patch_size": (4, 8, 8.5)}, "whole numbers"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing="),
        ({"spacing": (1.0, math.nan, 1.0)}, "spacing="),
    ],
)
def test_choices_that_do_not_go(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_mask_of_another_grid() -> None:
    with pytest.raises(UserError, match=r"expected booleans \(2, 32\), True for real tokens of the 4 x 4 x 2 grid"):
        make()(volumes(2, 1, 8, 16, 16), torch.ones(2, 31) > 0)


@pytest.mark.slow
def test_export_keeps_the_size_free() -> None:
    model, free = make(depth=1), torch.export.Dim.DYNAMIC
    program = torch.export.export(
        model, (volumes(2, 1, 8, 16, 24),), dynamic_shapes={"x": {0: free, 2: free, 3: free, 4: free}}
    )
    x = volumes(3, 1, 5, 9, 17)
    torch.testing.assert_close(program.module()(x), model(x))
