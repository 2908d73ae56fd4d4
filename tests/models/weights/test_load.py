"""Weights made by timm, loaded into models of the same and of other shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from softfree.models import VisionTransformer, load_pretrained
from softfree_runtime.core.errors import UserError

GEOMETRY = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 7}


def timm_vit(**options: object) -> nn.Module:
    """A published model with random weights, none of which is zero or one."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **{**GEOMETRY, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(timm_vit(), tmp_path)


def save(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def make(**options: object) -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(**{**GEOMETRY, "attention": "softmax", **options}).eval()


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {"pool": "token"}),
        ({"global_pool": "avg"}, {"pool": "avg", "class_token": True}),
        ({"global_pool": "avg", "class_token": False}, {"pool": "avg"}),
        ({"init_values": 0.5}, {"pool": "token", "layer_scale": 0.1}),
        ({"in_chans": 1, "img_size": (32, 80)}, {"pool": "token", "in_chans": 1, "img_size": (32, 80)}),
    ],
)
def test_the_logits_of_timm(tmp_path: Path, theirs: dict[str, object], ours: dict[str, object]) -> None:
    published, model = timm_vit(**theirs), make(**ours)
    report = load_pretrained(model, save(published, tmp_path))
    assert set(report.matched) == set(model.state_dict()) - {"pos_grid"} == set(published.state_dict())
    assert report.resized == report.new == report.dropped == ()
    height, width = ours.get("img_size", (64, 64))
    x = torch.randn(2, ours.get("in_chans", 3), height, width)
    assert_same(model(x), published(x))


def test_layer_scale_is_folded(tmp_path: Path) -> None:
    """A model without layer scale computes the same as the one with it."""
    published, model = timm_vit(init_values=0.5), make(pool="token")
    report = load_pretrained(model, save(published, tmp_path))
    assert report.dropped == ()
    assert "blocks.2.mlp.fc2.weight" in report.resized
    x = torch.randn(2, 3, 64, 64)
    assert_same(model(x), published(x))


def test_another_size(tmp_path: Path) -> None:
    published, model = timm_vit(), make(pool="token", img_size=(96, 128))
    report = load_pretrained(model, save(published, tmp_path))
    assert report.resized == ("pos_embed",)
    published.set_input_size((96, 128))
    x = torch.randn(2, 3, 96, 128)
    assert_same(model(x), published(x))


def test_another_size_at_run_time(source: Path) -> None:
    """Resizing when an image comes is the same as when the weights were loaded."""
    fixed, free = make(pool="token", img_size=96), make(pool="token")
    load_pretrained(fixed, source)
    load_pretrained(free, source)
    x = torch.randn(2, 3, 96, 96)
    assert_same(free(x), fixed(x))


def test_another_patch_size(tmp_path: Path) -> None:
    published, model = timm_vit(), make(pool="token", patch_size=8, img_size=32)
    report = load_pretrained(model, save(published, tmp_path))
    assert report.resized == ("patch_embed.proj.weight",)
    published.set_input_size(32, patch_size=8)
    x = torch.randn(2, 3, 32, 32)
    assert_same(model(x), published(x))


def test_gray_model_sees_gray_as_the_color_model_did(source: Path) -> None:
    color, gray = make(pool="token"), make(pool="token", in_chans=1)
    load_pretrained(color, source)
    assert load_pretrained(gray, source).resized == ("patch_embed.proj.weight",)
    x = torch.randn(2, 1, 64, 64)
    assert_same(gray(x), color(x.expand(-1, 3, -1, -1)), 1e-4)


@pytest.mark.parametrize(("given", "wanted"), [(3, 4), (3, 6), (1, 3), (2, 5), (4, 1)])
def test_other_channel_counts(tmp_path: Path, given: int, wanted: int) -> None:
    """Gray in every channel gives the same in both."""
    published, model = timm_vit(in_chans=given), make(pool="token", in_chans=wanted)
    load_pretrained(model, save(published, tmp_path))
    if (given, wanted) == (3, 4):  # timm repeats the channels: the fourth is the first, which gray does not undo
        kernel = published.patch_embed.proj.weight
        return assert_same(model.patch_embed.proj.weight, torch.cat([kernel, kernel[:, :1]], 1) * 3 / 4)
    x = torch.randn(2, 1, 64, 64)
    return assert_same(model(x.expand(-1, wanted, -1, -1)), published(x.expand(-1, given, -1, -1)), 1e-4)


def test_class_token_is_left_out(source: Path) -> None:
    model = make(pool="avg")
    report = load_pretrained(model, source)
    assert report.dropped == ("cls_token",)
    assert report.resized == ("pos_embed",)
    weights = timm_vit().state_dict()
    assert torch.equal(model.pos_embed, weights["pos_embed"][:, 1:])
    assert torch.equal(model.fc_norm.weight, weights["norm.weight"])


def test_class_token_is_added(tmp_path: Path) -> None:
    published, model = timm_vit(global_pool="avg", class_token=False), make(pool="token")
    report = load_pretrained(model, save(published, tmp_path))
    assert report.new == ("cls_token",)
    assert (model.pos_embed[:, 0] == 0).all()
    assert torch.equal(model.pos_embed[:, 1:], published.pos_embed)
    assert torch.equal(model.norm.weight, published.fc_norm.weight)


@pytest.mark.parametrize("no_embed_class", [True, False])
def test_register_tokens(tmp_path: Path, no_embed_class: bool) -> None:
    """DINOv2 has four of them, with positions or without."""
    published = timm_vit(reg_tokens=4, no_embed_class=no_embed_class, img_size=112)
    model = make(pool="token", img_size=112)
    report = load_pretrained(model, save(published, tmp_path))
    assert report.dropped == ("reg_token",)
    first = 0 if no_embed_class else 5
    assert torch.equal(model.pos_embed[:, 1:], published.pos_embed[:, first:])
    assert torch.equal(model.pos_embed[:, 0], published.pos_embed[:, 0] * (not no_embed_class))


def test_seqnorm(source: Path) -> None:
    model = make(attention="seqnorm", num_classes=2)
    head = model.head.weight.clone()
    report = load_pretrained(model, source)
    qkv_norms = {f"blocks.{i}.attn.{t}_norm.{p}" for i in range(3) for t in "qkv" for p in ("weight", "bias")}
    assert set(report.new) == qkv_norms | {"head.weight", "head.bias"}
    biases = {f"blocks.{i}.attn.qkv.bias" for i in range(3)}
    assert set(report.dropped) == biases | {"cls_token", "head.weight", "head.bias"}
    assert torch.equal(model.blocks[1].attn.qkv.weight, timm_vit().blocks[1].attn.qkv.weight)
    assert torch.equal(model.head.weight, head)
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_conv_stem_and_other_positions(source: Path) -> None:
    model = make(stem="conv", pos="sincos", pool="token")
    report = load_pretrained(model, source)
    assert all(name.startswith("patch_embed.stem.") for name in report.new)
    assert set(report.dropped) == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_another_depth(source: Path) -> None:
    deeper, flatter = load_pretrained(make(depth=4), source), load_pretrained(make(depth=2), source)
    assert all(name.startswith("blocks.3.") for name in deeper.new)
    assert {name.split(".")[1] for name in flatter.dropped if name.startswith("blocks")} == {"2"}


def test_report_reads_well(source: Path) -> None:
    lines = str(load_pretrained(make(attention="seqnorm", num_classes=2), source)).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["matched", "37"],
        ["resized", "1"],
        ["new", "20"],
        ["dropped", "6"],
    ]
    assert "blocks.*.attn.q_norm.weight (3)" in lines[2]
    assert lines[1].endswith("pos_embed")


def test_width_that_does_not_fit(source: Path) -> None:
    model = make(embed_dim=24)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(UserError, match="has width 48, the model 24"):
        load_pretrained(model, source)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_is_no_vision_transformer(tmp_path: Path) -> None:
    source = save(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), tmp_path)
    with pytest.raises(UserError, match=r"not a vision transformer in timm's naming: expected blocks\.0\.norm1"):
        load_pretrained(make(), source)
