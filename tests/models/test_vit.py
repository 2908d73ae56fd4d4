"""The vision transformer: sizes, channels, masks, pooling, and its interfaces to timm and the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from softfree.attention import ATTENTIONS
from softfree.models import VisionTransformer
from softfree.models.pos_embed import sincos_positions
from softfree.models.vit import masked_mean
from softfree_runtime.core.errors import UserError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def make(**options: object) -> VisionTransformer:
    model = VisionTransformer(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("pos", ["learn", "sincos", "none"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_any_size(pool: str, stem: str, pos: str) -> None:
    model = make(pool=pool, stem=stem, pos=pos)
    for height, width in ((32, 32), (50, 37), (7, 90)):
        tokens = model.forward_features(images(2, 3, height, width))
        assert tokens.shape == (2, (pool == "token") + -(-height // 8) * -(-width // 8), 24)
        assert model(images(2, 3, height, width)).shape == (2, 5)
    model(images(2, 3, 50, 37)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_size_that_is_no_square_and_no_multiple() -> None:
    model = make(img_size=(30, 49))
    assert model.grid_size == (4, 7)
    assert model.pos_embed.shape == (1, 28, 24)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_positions_make_places_different(attention: str) -> None:
    """Without positions shuffled patches give the same logits; with them they do not."""
    x = images(1, 3, 16, 16)
    shuffled = x.roll(8, dims=3).roll(8, dims=2)
    without, learned = make(attention=attention, pos="none"), make(attention=attention)
    if attention != "linformer":  # its maps depend on positions
        torch.testing.assert_close(without(x), without(shuffled))
    assert not torch.allclose(learned(x), learned(shuffled), rtol=1e-4)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padded_tokens_change_nothing(attention: str, stem: str, pool: str) -> None:
    model = make(attention=attention, stem=stem, pool=pool)
    x, mask = images(2, 3, 40, 32), torch.rand(2, 20) > 0.5
    pixels = mask.view(2, 1, 5, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    logits = model(x, mask)
    torch.testing.assert_close(model(x.where(pixels, 1e3), mask), logits, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model(x), logits, rtol=1e-4)
    torch.testing.assert_close(model(x[1:], mask[1:]), logits[1:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_positional_convolution_leaves_padding_out(pool: str) -> None:
    model = make(pos_conv=True, pool=pool, pos="none").eval()
    x = images(2, 3, 32, 32)
    mask = (torch.arange(16) % 4 < 3).expand(2, -1)  # the last column is padding
    changed = x.clone()
    changed[..., 24:] = 7.0
    assert torch.equal(model(x, mask), model(changed, mask))
    plain = make(pool=pool, pos="none").eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert not torch.allclose(model(x), plain(x), rtol=1e-3)


def test_average_pooling_leaves_out_the_class_token_and_the_padding() -> None:
    model, tokens, mask = make(pool="avg", class_token=True), images(2, 17, 24), torch.rand(2, 16) > 0.5
    mean = torch.stack([t[1:][m].mean(0) for t, m in zip(tokens, mask, strict=True)])
    torch.testing.assert_close(model.forward_head(tokens, mask, pre_logits=True), model.fc_norm(mean))
    torch.testing.assert_close(model.forward_head(tokens), model.head(model.fc_norm(tokens[:, 1:].mean(1))))


def test_mean_of_half_precision_does_not_overflow() -> None:
    tokens, mask = torch.full((1, 1000, 2), 100.0, dtype=torch.float16), torch.ones(1, 1000, dtype=torch.bool)
    assert (masked_mean(tokens, mask) == 100).all()
    assert (masked_mean(tokens, ~mask) == 0).all()


def test_token_pooling_reads_the_class_token() -> None:
    model, x = make(pool="token"), images(2, 3, 32, 32)
    assert isinstance(model.fc_norm, torch.nn.Identity)
    torch.testing.assert_close(model(x), model.head(model.forward_features(x)[:, 0]))


def test_class_token_is_told_to_the_attention() -> None:
    options = {"class_token_in_statistics": False}
    model = make(pool="token", attention_options=options)
    assert model.blocks[1].attn.num_left_out == 1
    assert options == {"class_token_in_statistics": False}


def test_sincos_positions_are_fixed_and_not_saved() -> None:
    model = make(pos="sincos")
    assert "pos_embed" not in dict(model.named_parameters())
    assert "pos_embed" not in model.state_dict()
    assert model.pos_embed.dtype == torch.float64


def test_start() -> None:
    """timm's: truncated normal 0.02, zero biases; SeqNorm keeps its own."""
    model = VisionTransformer(embed_dim=192, depth=1, num_heads=3, pool="token", num_classes=100, pos="random")
    for weight in (model.blocks[0].mlp.fc1.weight, model.head.weight, model.pos_embed, model.blocks[0].attn.qkv.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (model.head.bias == 0).all()
    assert model.cls_token.abs().max() < 1e-4
    assert (model.blocks[0].attn.q_norm.bias == 0.2).all()


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_learned_positions_start_as_sines_and_cosines(pool: str) -> None:
    model = VisionTransformer(32, 8, embed_dim=24, depth=1, num_heads=2, pool=pool, num_classes=2)
    assert isinstance(model.pos_embed, nn.Parameter)
    prefix, codes = model.pos_embed[:, : model.num_prefix_tokens], model.pos_embed[:, model.num_prefix_tokens :]
    torch.testing.assert_close(codes, sincos_positions(model.grid_size, model.embed_dim).to(codes.dtype))
    assert codes.pow(2).mean().sqrt().item() == pytest.approx(0.5**0.5)
    assert prefix.numel() == 0 or 0 < prefix.abs().max() < 0.1
    odd = VisionTransformer(embed_dim=6, depth=1, num_heads=1, attention="softmax", num_classes=2)
    assert odd.pos_embed.abs().max() < 0.1, "no codes for such a width"


def test_checkpointing_equals(tmp_path: Path) -> None:
    model, x, gradients = make(), images(2, 3, 32, 32), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert model.blocks.grad_checkpointing
    torch.testing.assert_close(*gradients)


def test_reset_classifier() -> None:
    model = make()
    model.reset_classifier(3)
    assert model.get_classifier() is model.head
    assert model.num_classes == 3
    assert model(images(1, 3, 32, 32)).shape == (1, 3)
    model.reset_classifier(0)
    assert model(images(1, 3, 32, 32)).shape == (1, model.num_features)


def test_groups_of_timm() -> None:
    model = make(pool="token")
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    spared, decayed = ({id(p) for p in group["params"]} for group in sorted(groups, key=lambda g: g["weight_decay"]))
    names = {id(p): name for name, p in model.named_parameters()}
    assert {"pos_embed", "cls_token", "head.bias", "blocks.0.attn.q_norm.weight"} <= {names[i] for i in spared}
    assert all(names[i].endswith("weight") for i in decayed)
    layers = param_groups_layer_decay(model, layer_decay=0.5)
    rate = {names[id(p)]: group["lr_scale"] for group in layers for p in group["params"]}
    assert rate["patch_embed.proj.weight"] < rate["blocks.0.attn.qkv.weight"] < rate["blocks.1.attn.qkv.weight"]
    assert rate["head.weight"] == 1


@pytest.mark.parametrize("options", [{"img_size": (24, 40), "pool": "token"}, {"stem": "conv", "pos": "sincos"}])
def test_saved_and_loaded(tmp_path: Path, options: dict[str, object]) -> None:
    model = VisionTransformer(**{**SMALL, "attention_options": {"beta_q": 0.5}, **options}).eval()
    model.reset_classifier(3)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_classes"] == 3
    assert config["attention_options"] == {"beta_q": 0.5}
    assert not list(tmp_path.glob("*.bin"))
    again = VisionTransformer.from_pretrained(tmp_path, strict=True)
    x = torch.randn(2, 3, 50, 37)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "mean"}, "Unknown pool 'mean'"),
        ({"stem": "convs"}, "did you mean conv"),
        ({"pos": "sincs"}, "did you mean sincos"),
        ({"attention": "softmx"}, "did you mean softmax"),
        ({"pool": "token", "class_token": False}, "set class_token=True or choose"),
        ({"num_heads": 5}, "24 for 5 heads"),
    ],
)
def test_choices_that_do_not_go(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.mark.parametrize("mask", [torch.ones(2, 17) > 0, torch.ones(2, 16), torch.ones(1, 16) > 0])
def test_mask_of_another_grid(mask: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"expected booleans \(2, 16\), True for real tokens of the 4 x 4 grid"):
        make()(images(2, 3, 32, 32), mask)


def test_the_interface_of_timm() -> None:
    """What timm's own models offer and this project's tools rely on."""
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1)
    for name in ("num_features", "head_hidden_size", "embed_dim", "num_classes", "num_prefix_tokens"):
        assert isinstance(getattr(make(), name), type(getattr(theirs, name)))
    x = images(1, 3, 32, 32)
    model = make()
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (1, 24)


def test_export_keeps_the_size_free() -> None:
    model, free = make(attention="seqnorm", depth=1), torch.export.Dim.DYNAMIC
    shapes = {"x": {0: free, 2: free, 3: free}}
    program = torch.export.export(model, (images(2, 3, 32, 40),), dynamic_shapes=shapes)
    x = images(3, 3, 50, 37)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_training_compiled_for_images_of_any_size(backend: str) -> None:
    torch._dynamo.reset()
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=2)
    compiled = torch.compile(model, backend=backend)
    for shape in ((32, 32), (48, 48), (40, 64), (50, 33)):
        x, slopes = torch.randn(2, 3, *shape), []
        for run in (compiled, model):
            model.zero_grad()
            y = run(x)
            y.square().sum().backward()
            slopes.append([y, *(p.grad for p in model.parameters())])
        for got, want in zip(*slopes, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
