"""Weights with the official names: each is loaded, and a block computes with them what the official one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from softfree.models import SoftPyramid, load_pretrained
from softfree.models.weights.pyramid import to_pyramid
from softfree_runtime.core.errors import UserError

DIMS, DEPTHS, HEADS = (8, 16, 24, 32), (1, 1, 2, 1), (1, 2, 3, 4)
SMALL = {"num_classes": 5, "embed_dims": DIMS, "depths": DEPTHS, "num_heads": HEADS}
RATIOS, KERNELS = (8, 4, 2), (9, 5, 3)


def linear(outer: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (outer, inner), "bias": (outer,)}


def norm(width: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (width,), "bias": (width,)}


def conv_norm(first: int, outer: int, inner: int) -> dict[str, tuple[int, ...]]:
    statistics = {"running_mean": (outer,), "running_var": (outer,), "num_batches_tracked": ()}
    parts = {str(first): {"weight": (outer, inner, 3, 3), "bias": (outer,)}, str(first + 1): norm(outer) | statistics}
    return {f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def block(stage: int) -> dict[str, dict[str, tuple[int, ...]]]:
    c, heads = DIMS[stage], HEADS[stage]
    if stage == 3:
        names = {"norm1": norm(c), "norm2": norm(c), "attn.q": linear(c, c), "attn.kv": linear(2 * c, c)}
        return names | {"attn.proj": linear(c, c), "mlp.fc1": linear(4 * c, c), "mlp.fc2": linear(c, 4 * c)}
    d, ratio, kernel = c // heads, RATIOS[stage], KERNELS[stage]
    return {
        "att.mha.W_q": linear(c, c),
        "att.mha.W_v": linear(c, c),
        "att.mha.ff": linear(c, c),
        "att.mha.attn.Qlandmark_op": {"weight": (d, d, ratio, ratio)},
        "att.mha.attn.Qnorm_act.0": norm(d),
        "att.mha.attn.conv": {"weight": (heads, 1, kernel, kernel)},
        "att.norm1": norm(c),
        "att.norm2": norm(c),
        "att.ff1": linear(4 * c, c),
        "att.ff2": linear(c, 4 * c),
    }


def official(side: int = 64, prefix: str = "") -> dict[str, Tensor]:
    """A state dict as the official code would write it, with random values."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 32)}
    for stage, (dim, before) in enumerate(zip(DIMS, (32, *DIMS), strict=False)):
        embed = conv_norm(6, dim, 32) | conv_norm(3, 32, 32) | conv_norm(0, 32, 3) if stage == 0 else {}
        embed = embed or conv_norm(0, dim, before)
        shapes |= {f"patch_embed{stage + 1}.proj.{name}": shape for name, shape in embed.items()}
        tokens = (side // (4 << stage)) ** 2 + (stage == 3)
        shapes[f"pos_embed{stage + 1}"] = (1, tokens, dim)
        for number in range(DEPTHS[stage]):
            for part, of_part in block(stage).items():
                shapes |= {f"block{stage + 1}.{number}.{part}.{name}": shape for name, shape in of_part.items()}
    for part, of_part in {"norm": norm(32), "head": linear(5, 32)}.items():
        shapes |= {f"{part}.{name}": shape for name, shape in of_part.items()}
    torch.manual_seed(0)
    made = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    for name in made:
        if name.endswith("running_var"):
            made[name] = made[name].abs() + 0.5
        if name.endswith("tracked"):
            made[name] = torch.tensor(7)
    return {prefix + name: t for name, t in made.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(official(), tmp_path / "official.safetensors")
    return tmp_path / "official.safetensors"


@pytest.mark.parametrize("attention", ["soft", "soft_norm"])
def test_every_weight_has_its_place(file: Path, attention: str) -> None:
    model = SoftPyramid(img_size=64, attention=attention, **SMALL)
    report = load_pretrained(model, file)
    assert not report.new
    assert not report.dropped
    assert not report.resized
    assert len(report.matched) == len(model.state_dict())
    given = official()
    assert torch.equal(model.stages[0].embed[2].bn.running_mean, given["patch_embed1.proj.7.running_mean"])
    assert torch.equal(model.stages[3].embed[0].conv.weight, given["patch_embed4.proj.0.weight"])
    assert torch.equal(model.stages[3].pos_embed, given["pos_embed4"])
    assert torch.equal(model.stages[3].cls_token, given["cls_token"])
    assert model.stages[1].embed[0].bn.num_batches_tracked == 7


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    return (-(a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / 2).exp()


def layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def affine(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def official_block(x: Tensor, w: dict[str, Tensor], stage: int, side: int, normalized: bool) -> Tensor:
    """A SOFT block from the official weights: queries are divided by D^(1/4), then sampled. Exact inverse."""
    heads = HEADS[stage]
    q, v = (affine(x, w, f"att.mha.W_{n}").unflatten(2, (heads, -1)).transpose(1, 2) for n in "qv")
    d = q.shape[-1]
    q = q / d**0.25
    maps = q.mT.reshape(-1, d, side, side)
    at = F.conv2d(maps, w["att.mha.attn.Qlandmark_op.weight"], stride=RATIOS[stage]).flatten(2).mT
    at = F.gelu(layer_norm(at, w, "att.mha.attn.Qnorm_act.0")).unflatten(0, (-1, heads))
    a, p = gaussian(at, at), gaussian(at, q)
    if normalized:
        scale = torch.diag_embed(a.sum(-1).rsqrt())
        inverse = scale @ torch.linalg.inv(a) @ scale
    else:
        inverse = torch.linalg.inv(a + 0.01 * torch.eye(a.shape[-1], dtype=a.dtype))
    mixed = p.mT @ inverse @ (p @ v)
    local = F.conv2d(
        v.permute(0, 3, 1, 2).reshape(-1, heads, side, side),
        w["att.mha.attn.conv.weight"],
        padding=KERNELS[stage] // 2,
        groups=heads,
    )
    mixed = mixed + local.reshape(len(x), d, heads, -1).permute(0, 2, 3, 1)
    y = layer_norm(x + affine(mixed.transpose(1, 2).flatten(2), w, "att.mha.ff"), w, "att.norm1")
    hidden = F.gelu(affine(y, w, "att.ff1"), approximate="tanh")
    return layer_norm(y + affine(hidden, w, "att.ff2"), w, "att.norm2")


@pytest.mark.parametrize("attention", ["soft", "soft_norm"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_soft_blocks_compute_what_the_official_ones_do(file: Path, stage: int, attention: str) -> None:
    options = {"iterations": 60}
    model = SoftPyramid(img_size=64, attention=attention, attention_options=options, **SMALL).double().eval()
    load_pretrained(model, file)
    prefix = f"block{stage + 1}.0."
    w = {name.removeprefix(prefix): t.double() for name, t in official().items() if name.startswith(prefix)}
    side = 16 >> stage
    x = torch.randn(2, side * side, DIMS[stage], dtype=torch.float64)
    want = official_block(x, w, stage, side, attention == "soft_norm")
    torch.testing.assert_close(model.stages[stage].blocks[0](x, None, (side, side)), want, rtol=1e-5, atol=1e-5)


def test_softmax_blocks_compute_what_the_official_ones_do(file: Path) -> None:
    model = SoftPyramid(img_size=64, **SMALL).eval()
    load_pretrained(model, file)
    w = {n.removeprefix("block4.0."): t for n, t in official().items() if n.startswith("block4.0.")}
    x = torch.randn(2, 5, 32)
    y = F.layer_norm(x, (32,), w["norm1.weight"], w["norm1.bias"], 1e-6)
    q = affine(y, w, "attn.q").view(2, 5, 4, 8).transpose(1, 2)
    k, v = affine(y, w, "attn.kv").view(2, 5, 2, 4, 8).permute(2, 0, 3, 1, 4)
    mixed = ((q @ k.mT) * 8**-0.5).softmax(-1) @ v
    y = x + affine(mixed.transpose(1, 2).flatten(2), w, "attn.proj")
    hidden = F.gelu(affine(F.layer_norm(y, (32,), w["norm2.weight"], w["norm2.bias"], 1e-6), w, "mlp.fc1"))
    torch.testing.assert_close(model.stages[3].blocks[0](x), y + affine(hidden, w, "mlp.fc2"), rtol=1e-4, atol=1e-5)


def test_other_size_channels_and_classes(tmp_path: Path) -> None:
    save_file(official(side=128, prefix="module."), tmp_path / "w.safetensors")
    model = SoftPyramid(img_size=64, in_chans=1, **{**SMALL, "num_classes": 2})
    report = load_pretrained(model, tmp_path / "w.safetensors")
    assert set(report.resized) == {f"stages.{s}.pos_embed" for s in range(4)} | {"stages.0.embed.0.conv.weight"}
    assert set(report.new) == set(report.dropped) == {"head.weight", "head.bias"}
    given = official(side=128)
    assert torch.equal(model.stages[3].pos_embed[:, 0], given["pos_embed4"][:, 0])
    kernel = given["patch_embed1.proj.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.stages[0].embed[0].conv.weight.detach(), kernel)


def test_softmax_blocks_are_not_taken_for_soft_ones(file: Path) -> None:
    model = SoftPyramid(img_size=64, last="soft", **SMALL)
    before = model.stages[3].blocks[0].mlp.fc1.weight.clone()
    report = load_pretrained(model, file)
    assert torch.equal(model.stages[3].blocks[0].mlp.fc1.weight, before)
    assert "stages.3.blocks.0.mlp.fc1.weight" in report.dropped
    assert "stages.3.blocks.0.mlp.fc1.weight" in report.new
    assert "stages.3.pos_embed" in report.resized


def test_own_weights_come_back(tmp_path: Path) -> None:
    theirs = SoftPyramid(img_size=64, last="soft", **SMALL).eval()
    save_file(theirs.state_dict(), tmp_path / "own.safetensors")
    model = SoftPyramid(img_size=64, last="soft", **SMALL).eval()
    report = load_pretrained(model, tmp_path / "own.safetensors")
    assert len(report.matched) == len(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), theirs(x))


def test_paper_form_leaves_the_sampling_out(file: Path) -> None:
    report = load_pretrained(SoftPyramid(img_size=64, form="paper", **SMALL), file)
    assert not report.new
    assert {name.split(".attn.")[1].split(".")[0] for name in report.dropped} == {"sample", "local"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1, 7, 1)}, r"has depths \(1, 1, 2, 1\), the model \(1, 1, 7, 1\): .*set depths=\[1, 1, 2, 1\]"),
        ({"embed_dims": (8, 16, 48, 32)}, r"has embed_dims \(8, 16, 24, 32\)"),
    ],
)
def test_another_pyramid(file: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_pretrained(SoftPyramid(**{**SMALL, **options}), file)


def test_no_pyramid(tmp_path: Path) -> None:
    save_file({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"is not a SOFT pyramid: .* got blocks.0.norm1.weight"):
        load_pretrained(SoftPyramid(**SMALL), tmp_path / "vit.safetensors")


def test_unknown_names_stay() -> None:
    assert set(to_pyramid({"something.weight": torch.ones(1)})) == {"something.weight"}
