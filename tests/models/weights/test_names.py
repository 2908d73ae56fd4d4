"""The same weights under other names are the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from softfree.models import VisionTransformer, load_pretrained
from softfree.models.weights.names import to_timm

Weights = dict[str, Tensor]
WIDTH, DEPTH = 24, 3


def make(**options: object) -> VisionTransformer:
    given = {"num_classes": 5, "pool": "token", "attention": "softmax", **options}
    return VisionTransformer(32, 8, embed_dim=WIDTH, depth=DEPTH, num_heads=2, **given).eval()


@pytest.fixture
def weights() -> Weights:
    """timm's names, all values different."""
    torch.manual_seed(0)
    return {name: torch.randn_like(t) for name, t in make(layer_scale=0.1).state_dict().items()}


def as_vit(weights: Weights, prefix: str = "vit.") -> Weights:
    """transformers' ViTForImageClassification; it has no layer scale."""
    whole = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }
    named = {prefix + theirs: weights[ours] for theirs, ours in whole.items()}
    named |= {f"classifier.{kind}": weights[f"head.{kind}"] for kind in ("weight", "bias")}
    parts = {
        "attention.output.dense": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    return named | _layers(weights, f"{prefix}encoder.layer.", parts)


def as_dinov2(weights: Weights) -> Weights:
    """transformers' Dinov2Model."""
    named = {name.removeprefix("vit."): t for name, t in as_vit(weights).items() if "encoder" not in name}
    parts = {
        "attention.output.dense": "attn.proj",
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    named |= _layers(weights, "encoder.layer.", parts)
    for block in range(DEPTH):
        for number in (1, 2):
            gamma = weights[f"blocks.{block}.ls{number}.gamma"]
            named[f"encoder.layer.{block}.layer_scale{number}.lambda1"] = gamma
    return named | {"embeddings.mask_token": torch.randn(1, WIDTH)}


def _layers(weights: Weights, prefix: str, parts: dict[str, str]) -> Weights:
    named = {}
    for block in range(DEPTH):
        for kind in ("weight", "bias"):
            for theirs, ours in parts.items():
                named[f"{prefix}{block}.{theirs}.{kind}"] = weights[f"blocks.{block}.{ours}.{kind}"]
            three = weights[f"blocks.{block}.attn.qkv.{kind}"].split(WIDTH)
            for part, tensor in zip(("query", "key", "value"), three, strict=True):
                named[f"{prefix}{block}.attention.attention.{part}.{kind}"] = tensor
    return named


def as_dino(prefix: str) -> Callable[[Weights], Weights]:
    """A checkpoint of self-distillation: encoder and projection head of teacher and student."""

    def name(weights: Weights) -> Weights:
        encoder = {name: t for name, t in weights.items() if not name.startswith("head.")}
        named = {f"{prefix}{name}": t for name, t in encoder.items()}
        return named | {
            f"{prefix}mask_token": torch.randn(1, WIDTH),
            "head.mlp.0.weight": torch.randn(8, WIDTH),
            "head.last_layer.weight_g": torch.randn(8, 1),
        }

    return name


def same(got: Weights, want: Weights) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def test_names_of_timm_stay(weights):
    assert same(to_timm(weights), weights)


@pytest.mark.parametrize("prefix", ["vit.", "", "model.vit."])
def test_vit_of_transformers(weights, prefix):
    wanted = {name: t for name, t in weights.items() if ".ls" not in name}
    assert same(to_timm(as_vit(weights, prefix)), wanted)


def test_dinov2_of_transformers(weights):
    result = to_timm(as_dinov2(weights))
    assert result.pop("mask_token").shape == (1, WIDTH)
    assert same(result, weights)


@pytest.mark.parametrize(
    "prefix", ["teacher.backbone.", "teacher.", "backbone.", "module.", "student.module.backbone."]
)
def test_checkpoints_of_dino(weights, prefix):
    result = to_timm(as_dino(prefix)(weights))
    assert set(result) - set(weights) == {"mask_token", "head.mlp.0.weight", "head.last_layer.weight_g"}
    encoder = {name: t for name, t in weights.items() if not name.startswith("head.")}
    assert same({name: result[name] for name in encoder}, encoder)


def test_the_teacher_is_taken_and_the_student_keeps_its_name(weights):
    student = {f"student.backbone.{name}": t + 1 for name, t in weights.items()}
    teacher = {f"teacher.backbone.{name}": t for name, t in weights.items()}
    assert same(to_timm(student | teacher), weights | student)


def test_a_decoder_beside_the_encoder_is_no_prefix(weights):
    decoder = {name.replace("blocks.", "decoder_blocks."): t + 1 for name, t in weights.items() if "blocks." in name}
    assert same(to_timm(decoder | weights), weights | decoder)


def test_blocks_in_chunks(weights):
    chunks = {"blocks.0.": "blocks.0.0.", "blocks.1.": "blocks.0.1.", "blocks.2.": "blocks.1.2."}
    chunked = {"register_tokens": torch.zeros(1, 4, WIDTH)}
    for name, tensor in weights.items():
        prefix = name[: len("blocks.0.")]
        chunked[name.replace(prefix, chunks[prefix]) if prefix in chunks else name] = tensor
    result = to_timm(chunked)
    assert result.pop("reg_token").shape == (1, 4, WIDTH)
    assert same(result, weights)


def test_a_bias_that_only_some_have_is_zero_for_the_others(weights):
    named = {name: t for name, t in as_vit(weights).items() if not name.endswith("key.bias")}
    bias = to_timm(named)["blocks.1.attn.qkv.bias"]
    wanted = weights["blocks.1.attn.qkv.bias"].clone()
    wanted[WIDTH : 2 * WIDTH] = 0
    assert torch.equal(bias, wanted)


@pytest.mark.parametrize("naming", [as_dinov2, as_dino("teacher.backbone.")], ids=["transformers", "dino"])
def test_they_load_and_what_has_no_place_is_reported(weights, naming, tmp_path: Path):
    original, model = make(layer_scale=0.1), make(layer_scale=0.1)
    original.load_state_dict(weights)
    save_file({name: t.contiguous() for name, t in naming(weights).items()}, tmp_path / "weights.safetensors")
    report = load_pretrained(model, tmp_path / "weights.safetensors")
    assert "mask_token" in report.dropped
    assert {name.partition(".")[0] for name in report.dropped} <= {"mask_token", "head"}
    assert set(report.new) <= {"head.weight", "head.bias"}
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(x), original.forward_features(x))
