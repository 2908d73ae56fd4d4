"""The grid of positions in files of weights: known, stated beside them, assumed, or asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from softfree.models import SoftPyramid, VisionTransformer, VolumeTransformer, load_inflated, load_pretrained
from softfree.models.weights.source_grid import Layout, find_layout
from softfree_runtime.core.errors import UserError

SHAPE = {"embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 2}
FLAT = {**SHAPE, "in_chans": 1, "patch_size": 8}
OBLONG, SQUARE = (4, 16), (8, 8)


def flat(grid: tuple[int, int], **options: object) -> VisionTransformer:
    return VisionTransformer((8 * grid[0], 8 * grid[1]), **{**FLAT, **options})


def timm_vit(grid: tuple[int, int], **options: object) -> nn.Module:
    geometry = {"img_size": (8 * grid[0], 8 * grid[1]), **FLAT}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **geometry, **options)
    nn.init.normal_(model.pos_embed)
    return model


def save(model: nn.Module | dict[str, Tensor], folder: Path, name: str = "weights.safetensors") -> Path:
    weights = model if isinstance(model, dict) else model.state_dict()
    save_file({key: t.contiguous() for key, t in weights.items()}, folder / name)
    return folder / name


def resized(codes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions (1, n, C), by torch itself."""
    field = codes.mT.unflatten(2, old)
    return F.interpolate(field, new, mode="bicubic", antialias=True).flatten(2).mT


def without_grid(model: nn.Module) -> dict[str, Tensor]:
    """As models with oblong grids were saved before they told it."""
    return {name: t for name, t in model.state_dict().items() if not name.endswith("pos_grid")}


@pytest.mark.parametrize(("old", "new"), [(SQUARE, OBLONG), (OBLONG, SQUARE), (OBLONG, (16, 4)), (OBLONG, (2, 32))])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_as_many_places_on_another_grid(tmp_path: Path, old: tuple[int, int], new: tuple[int, int], pool: str) -> None:
    source, model = flat(old, pool=pool), flat(new, pool=pool)
    report = load_pretrained(model, save(source, tmp_path))
    prefix = int(pool == "token")
    torch.testing.assert_close(model.pos_embed[:, prefix:], resized(source.pos_embed[:, prefix:], old, new))
    assert torch.equal(model.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
    assert report.resized == ("pos_embed",)
    assert report.new == report.dropped == ()
    assert bool(report.assumed) == (old == SQUARE)


@pytest.mark.parametrize("grid", [SQUARE, OBLONG])
def test_an_equal_grid_is_taken_as_it_is(tmp_path: Path, grid: tuple[int, int]) -> None:
    source, model = flat(grid), flat(grid)
    report = load_pretrained(model, save(source, tmp_path))
    assert torch.equal(model.pos_embed, source.pos_embed)
    assert report.resized == report.new == report.dropped == report.assumed == ()


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    report = load_pretrained(flat(OBLONG), save(timm_vit(SQUARE), tmp_path))
    assert str(report).splitlines()[-1] == "assumed: position grid 8 x 8 (set --weights-grid for another)"
    source, model = timm_vit((2, 5), global_pool="avg", class_token=False), flat((2, 5))
    report = load_pretrained(model, save(source, tmp_path))
    assert report.assumed == ("position grid 2 x 5 (set --weights-grid for another)",)
    assert torch.equal(model.pos_embed, source.pos_embed)


@pytest.mark.parametrize("registers", [1, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_registers(tmp_path: Path, registers: int, no_embed_class: bool, pool: str) -> None:
    """Each position keeps its code, whatever stands in front."""
    source, model = timm_vit((7, 7), reg_tokens=registers, no_embed_class=no_embed_class), flat((7, 7), pool=pool)
    load_pretrained(model, save(source, tmp_path))
    first = 0 if no_embed_class else 1 + registers
    assert torch.equal(model.pos_embed[:, int(pool == "token") :], source.pos_embed[:, first:])
    if pool == "token":
        assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0] * (not no_embed_class))


def test_registers_without_a_class_token(tmp_path: Path) -> None:
    source = timm_vit((7, 7), reg_tokens=4, class_token=False, global_pool="avg")
    model = flat((7, 7), pool="token")
    load_pretrained(model, save(source, tmp_path))
    assert torch.equal(model.pos_embed[:, 1:], source.pos_embed[:, 4:])
    assert (model.pos_embed[:, 0] == 0).all(), "a register's code is no class token's"


def test_registers_of_an_oblong_grid(tmp_path: Path) -> None:
    source, model = timm_vit((3, 5), reg_tokens=4), flat((3, 5))
    load_pretrained(model, save(source, tmp_path))
    assert torch.equal(model.pos_embed, source.pos_embed[:, 5:])


@pytest.mark.parametrize("new", [(14, 14), (7, 9)])
def test_a_distillation_token(tmp_path: Path, new: tuple[int, int]) -> None:
    options = {"embed_dim": 24, "depth": 1, "num_heads": 3}
    source = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, **options)
    model = VisionTransformer((16 * new[0], 16 * new[1]), 16, **SHAPE, pool="token")
    report = load_pretrained(model, save(source, tmp_path))
    assert {"dist_token", "head_dist.weight"} <= set(report.dropped)
    want = source.pos_embed[:, 2:] if new == (14, 14) else resized(source.pos_embed[:, 2:], (14, 14), new)
    torch.testing.assert_close(model.pos_embed[:, 1:], want)
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])


def test_a_distillation_token_as_transformers_names_it(tmp_path: Path) -> None:
    source = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, embed_dim=24, depth=1, num_heads=3)
    names = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embeddings"}
    weights = {f"deit.embeddings.{theirs}": source.state_dict()[name] for name, theirs in names.items()}
    for part, theirs in (("norm1", "layernorm_before"), ("mlp.fc1", "intermediate.dense")):
        for kind in ("weight", "bias"):
            weights[f"deit.encoder.layer.0.{theirs}.{kind}"] = source.state_dict()[f"blocks.0.{part}.{kind}"]
    for part in ("query", "key", "value"):
        weights[f"deit.encoder.layer.0.attention.attention.{part}.weight"] = torch.randn(24, 24)
    model = VisionTransformer(224, 16, **SHAPE, pool="token")
    load_pretrained(model, save(weights, tmp_path))
    assert torch.equal(model.pos_embed[:, 1:], source.pos_embed[:, 2:])


def test_two_tokens_that_the_weights_do_not_name(tmp_path: Path) -> None:
    source, model = timm_vit((7, 7), global_pool="avg", class_token=False), flat((7, 7))
    weights = source.state_dict()
    weights["pos_embed"] = torch.cat([torch.randn(1, 2, 24), weights["pos_embed"]], dim=1)
    report = load_pretrained(model, save(weights, tmp_path))
    assert torch.equal(model.pos_embed, source.pos_embed)
    assert report.assumed == ("position grid 7 x 7 (set --weights-grid for another), after 2 prefix tokens",)


def test_an_unknown_grid_is_asked_for(tmp_path: Path) -> None:
    source, model = timm_vit((3, 12)), flat((4, 10))
    weights = source.state_dict()
    weights["pos_embed"] = source.pos_embed[:, :-2]
    with pytest.raises(UserError, match=r"35 positions, which do not form a square.*--weights-grid"):
        load_pretrained(model, save(weights, tmp_path))
    path = save(source, tmp_path)  # 1 + 36 could be 6 x 6
    for grid in ((3, 12), (6, 6)):
        load_pretrained(model, path, grid=grid)
        torch.testing.assert_close(model.pos_embed, resized(source.pos_embed[:, 1:], grid, (4, 10)))
    for wrong in ((5, 5), (3, 10), (1, 3, 12), (0, 5)):
        with pytest.raises(UserError, match="Got a grid of"):
            load_pretrained(model, path, grid=wrong)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": [32, 128]}},
        {"pretrained_cfg": {"input_size": [1, 32, 128]}},
        {"image_size": [32, 128], "patch_size": 8},
        {"image_size": {"height": 32, "width": 128}},
    ],
)
def test_a_configuration_of_the_hub_beside_the_weights(tmp_path: Path, config: dict[str, object]) -> None:
    source, model = timm_vit(OBLONG), flat(SQUARE)
    path = save(source, tmp_path, "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for where in (path, tmp_path):
        report = load_pretrained(model, where)
        torch.testing.assert_close(model.pos_embed, resized(source.pos_embed[:, 1:], OBLONG, SQUARE))
        assert not report.assumed
    # One of other weights in the same folder says nothing, nor does one that does not fit.
    load_pretrained(model, save(source, tmp_path))
    assert torch.equal(model.pos_embed, source.pos_embed[:, 1:])
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 224}))
    load_pretrained(model, path)
    assert torch.equal(model.pos_embed, source.pos_embed[:, 1:])


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"image_size": "224"}', '{"image_size": [8]}', '{"model_args": 3}', "null"]
)
def test_a_configuration_that_says_nothing(tmp_path: Path, text: str) -> None:
    source, model = timm_vit(SQUARE), flat(SQUARE)
    path = save(source, tmp_path, "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    load_pretrained(model, path)
    assert torch.equal(model.pos_embed, source.pos_embed[:, 1:])


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_a_run_whose_weights_do_not_name_their_grid(tmp_path: Path, stem: str) -> None:
    source, model = flat(OBLONG, stem=stem), flat(SQUARE, stem=stem)
    options = {**FLAT, "stem": stem, "img_size": [32, 128]}
    config = {"task": {}, "preprocessing": {}, "options": {}, "model": {"name": "seqnorm_vit_nano_patch8", **options}}
    save(without_grid(source), tmp_path, "model.safetensors")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    report = load_pretrained(model, tmp_path)
    torch.testing.assert_close(model.pos_embed, resized(source.pos_embed, OBLONG, SQUARE))
    assert not report.assumed


def test_positions_with_rows_and_columns_of_their_own(tmp_path: Path) -> None:
    """As SAM has them."""
    source, model = timm_vit(OBLONG, global_pool="avg", class_token=False), flat(SQUARE)
    weights = source.state_dict()
    weights["pos_embed"] = source.pos_embed.unflatten(1, OBLONG)
    load_pretrained(model, save(weights, tmp_path))
    torch.testing.assert_close(model.pos_embed, resized(source.pos_embed, OBLONG, SQUARE))


def test_load_state_dict_refuses_another_grid(tmp_path: Path) -> None:
    source = flat(OBLONG)
    flat(OBLONG).load_state_dict(source.state_dict())
    flat(OBLONG).load_state_dict(without_grid(source))  # saved before grids were
    with pytest.raises(UserError, match=r"grid of 4 x 16, expected 16 x 4: load them with .*load_pretrained"):
        flat((16, 4)).load_state_dict(source.state_dict())
    with pytest.raises(RuntimeError, match="pos_grid"):
        flat(SQUARE).load_state_dict(source.state_dict())


# Volumes.


def deep(grid: tuple[int, int, int], **options: object) -> VolumeTransformer:
    size = tuple(4 * side for side in grid)
    return VolumeTransformer(size, 4, 1, **{**SHAPE, "pos": "learn", **options})


def trilinear(codes: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    return F.interpolate(codes.mT.unflatten(2, old), new, mode="trilinear").flatten(2).mT


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(
    ("old", "new"), [((4, 4, 4), (2, 4, 8)), ((2, 4, 8), (4, 4, 4)), ((2, 4, 8), (8, 4, 2)), ((2, 3, 4), (3, 5, 2))]
)
def test_volumes(tmp_path: Path, old: tuple[int, int, int], new: tuple[int, int, int], stem: str) -> None:
    """4 x 4 x 4 positions are not 8 x 8 of an image either."""
    source, model = deep(old, stem=stem), deep(new, stem=stem)
    report = load_inflated(model, save(source, tmp_path))
    torch.testing.assert_close(model.pos_embed, trilinear(source.pos_embed, old, new))
    assert report.resized == ("pos_embed",)
    assert bool(report.assumed) == (old == (4, 4, 4))


def test_volumes_that_do_not_name_their_grid(tmp_path: Path) -> None:
    source, model = deep((2, 3, 4)), deep((2, 3, 5))
    path = save(without_grid(source), tmp_path)
    with pytest.raises(UserError, match="24 positions, which do not form a cube"):
        load_inflated(model, path)
    load_inflated(model, path, grid=(2, 3, 4))
    torch.testing.assert_close(model.pos_embed, trilinear(source.pos_embed, (2, 3, 4), (2, 3, 5)))
    with pytest.raises(UserError, match="expected 3 sides"):
        load_inflated(model, path, grid=(4, 6))
    same = deep((2, 3, 4))
    assert load_inflated(same, path).assumed == ("position grid 2 x 3 x 4 (set --weights-grid for another)",)
    assert torch.equal(same.pos_embed, source.pos_embed)


@pytest.mark.parametrize(("old", "new"), [(SQUARE, OBLONG), (OBLONG, SQUARE)])
def test_images_in_layers_with_as_many_places(tmp_path: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    source, model = flat(old), deep((3, *new))
    load_inflated(model, save(source, tmp_path))
    want = resized(source.pos_embed, old, new)
    for layer in model.pos_embed.unflatten(1, (3, 64)).unbind(1):
        torch.testing.assert_close(layer, want)


def test_positions_of_volumes_are_not_a_images(tmp_path: Path) -> None:
    model = flat(SQUARE)
    before = model.pos_embed.clone()
    report = load_pretrained(model, save(deep((4, 4, 4)), tmp_path))
    assert "pos_embed" in report.dropped
    assert torch.equal(model.pos_embed, before)


# Pyramids.


@pytest.mark.parametrize(("old", "new"), [((64, 64), (32, 128)), ((32, 128), (64, 64))])
def test_pyramids(tmp_path: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    shape = {"embed_dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (1,) * 4, "num_classes": 2}
    source, model = SoftPyramid(old, **shape), SoftPyramid(new, **shape)
    for stage in source.stages:
        nn.init.normal_(stage.pos_embed)
    report = load_pretrained(model, save(source, tmp_path))
    for theirs, ours in zip(source.stages, model.stages, strict=True):
        front = theirs.num_prefix_tokens
        field = theirs.pos_embed[:, front:].mT.unflatten(2, theirs.grid_size)
        want = F.interpolate(field, ours.grid_size, mode="bilinear").flatten(2).mT
        torch.testing.assert_close(ours.pos_embed[:, front:], want)
        assert torch.equal(ours.pos_embed[:, :front], theirs.pos_embed[:, :front])
    assert report.new == report.dropped == ()
    assert bool(report.assumed) == (old == (64, 64))
    with pytest.raises(UserError, match="one per stage"):
        load_pretrained(model, tmp_path / "weights.safetensors", grid=(4, 16))


def test_the_order_of_what_is_believed() -> None:
    weights = {"pos_embed": torch.zeros(1, 65, 4), "cls_token": torch.zeros(1, 1, 4), "pos_grid": torch.tensor([2, 32])}
    assert find_layout(weights, (8, 8), user_grid=(1, 64), config_grid=(4, 16)) == Layout((1, 64), 1)
    assert find_layout(weights, (8, 8), config_grid=(4, 16)) == Layout((2, 32), 1)
    del weights["pos_grid"]
    assert find_layout(weights, (8, 8), config_grid=(4, 16)) == Layout((4, 16), 1)
    assert find_layout(weights, (2, 2), config_grid=(5, 5)) == Layout((8, 8), 1)
    weights["pos_embed"] = torch.zeros(1, 66, 4)  # 65 = 5 x 13 behind a class token, or 8 x 8 behind two tokens
    assert find_layout(weights, (5, 13)).grid == (5, 13)
    assert find_layout(weights, (7, 7)).prefix == 2
