"""The bag transformer: padding, positions, memory, and its interfaces to timm and the hub."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from softfree.attention import ATTENTIONS
from softfree.models import BagTransformer, collate_bags, list_models
from softfree.models.bag import SLIDE_WAVES
from softfree.models.case_embed import FREQUENCIES
from softfree.models.pos_embed import sincos_codes
from softfree.models.registry import BAG_MODELS
from softfree_runtime.core.errors import UserError

SMALL = {"in_features": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
GIB = 2**30


def make(**options: object) -> BagTransformer:
    torch.manual_seed(0)
    model = BagTransformer(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def bag(tiles: int, features: int = 16) -> torch.Tensor:
    """Random features at random positions of the first two slides."""
    positions = torch.rand(tiles, 3, dtype=torch.float64) * torch.tensor([40.0, 20.0, 2.0])
    positions[:, 2] = positions[:, 2].floor()
    return torch.cat([torch.randn(tiles, features, dtype=torch.float64), positions], dim=1)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_neither_padding_nor_neighbors_change_a_bag(attention: str, pool: str) -> None:
    model, bags = make(attention=attention, pool=pool), [bag(7), bag(60), bag(1)]
    alone = torch.cat([model(each.unsqueeze(0)) for each in bags])
    assert alone.isfinite().all()
    torch.testing.assert_close(model(collate_bags(bags)), alone, rtol=0, atol=1e-9)
    torch.testing.assert_close(model(collate_bags([bags[0], bag(200)]))[:1], alone[:1], rtol=0, atol=1e-9)
    assert not torch.allclose(alone[0], alone[1], rtol=1e-3)


def case(tiles: int) -> torch.Tensor:
    """Tiles of slides with a view of three, or an unknown one, and a time, or none."""
    plain = bag(tiles)
    view = torch.randint(0, 4, (tiles, 1)).double()
    time = -torch.rand(tiles, 1, dtype=torch.float64)
    time[::3] = math.nan
    return torch.cat([plain[:, :16], view, time, plain[:, 16:]], dim=1)


def test_views_and_times_of_slides_are_added_to_their_tiles() -> None:
    model, tiles = make(views=3, timed=True), case(9)
    embed = model.patch_embed
    plain = (embed.proj(embed.norm(tiles[:, :16])) + sincos_codes(tiles[:, -3:], 24, SLIDE_WAVES)).detach()
    for token, (view, time) in zip(plain, tiles[:, 16:18].tolist(), strict=True):
        code = embed.case_embed.view.weight[0].detach()
        if view:
            code = code + embed.case_embed.view.weight[int(view)].detach()
        if not math.isnan(time):
            angles = [2 * math.pi * frequency * time for frequency in FREQUENCIES]
            waves = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
            code = code + embed.case_embed.time(waves).detach()
        token += code * 24**0.5  # the root of the width
    torch.testing.assert_close(embed(tiles.unsqueeze(0))[0], plain)
    both = model(collate_bags([tiles, case(40)]))
    torch.testing.assert_close(both[:1], model(tiles.unsqueeze(0)), rtol=0, atol=1e-9)
    assert "patch_embed.case_embed.view.weight" in model.no_weight_decay()
    with pytest.raises(UserError, match=r"expected \(batch, tiles, 21\), 16 features, view and time of its slide, and"):
        model(bag(4).unsqueeze(0))


def test_a_view_that_training_did_not_meet_is_an_unknown_view() -> None:
    torch.manual_seed(0)
    model = BagTransformer(**SMALL, views=2).double()
    known, unknown = case(5), case(5)
    known[:, 16], unknown[:, 16] = 2, 0
    unknown[:, [*range(16), *range(17, 21)]] = known[:, [*range(16), *range(17, 21)]]
    assert torch.equal(model(known.unsqueeze(0)), model(unknown.unsqueeze(0)))


def test_padding_is_free_in_single_precision() -> None:
    model, first = make().float(), bag(50).float()
    batch = collate_bags([first, bag(300).float()])
    torch.testing.assert_close(model(batch)[:1], model(first.unsqueeze(0)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("attention", "options"),
    [("seqnorm", {}), ("soft", {"conv": 3}), ("nystromformer", {"conv": 3}), ("linformer", {})],
)
def test_padding_may_hold_anything(attention: str, options: dict[str, Any]) -> None:
    """Rows between tiles, too, and not-a-number in their features: neither logits nor gradients see them."""
    model, tiles = make(attention=attention, attention_options=options), bag(20)
    wild = torch.full((1, 30, 19), math.nan, dtype=torch.float64)
    wild[0, 3:13], wild[0, 18:28] = tiles[:10], tiles[10:]
    gradients = []
    for x in (tiles.unsqueeze(0), wild):
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(model(wild), model(tiles.unsqueeze(0)))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("attention", ["seqnorm", "softmax", "sima", "galerkin", "performer"])
def test_the_order_of_the_tiles_is_of_no_meaning(attention: str) -> None:
    model, tiles = make(attention=attention), bag(40)
    torch.testing.assert_close(model(tiles[torch.randperm(40)].unsqueeze(0)), model(tiles.unsqueeze(0)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_places_are_seen(axis: int) -> None:
    tiles = bag(40).unsqueeze(0)
    moved = tiles.clone()
    moved[0, :20, 16 + axis] += 1
    assert not torch.allclose(make()(moved), make()(tiles), rtol=1e-4)
    assert torch.equal(make(pos="none")(moved), make(pos="none")(tiles))


def test_slides_have_codes_of_their_own() -> None:
    positions = torch.zeros(20, 3)
    positions[:, 2] = torch.arange(20)
    codes = sincos_codes(positions, 128, SLIDE_WAVES)
    assert torch.cdist(codes, codes).add(torch.eye(20) * 9).min() > 0.5


def test_a_part_at_a_time_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softfree.models.bag.PART", 0)
    embed, x = make().patch_embed, collate_bags([bag(700), bag(500)])
    mask = ~x[..., -1].isnan()
    with torch.no_grad():
        torch.testing.assert_close(embed(x, mask), embed._embed(x, mask, None))


def test_collate() -> None:
    first, second = bag(3), bag(5)
    batch = collate_bags([first, second])
    assert batch.shape == (2, 5, 19)
    assert torch.equal(batch[0, :3], first)
    assert torch.equal(batch[1], second)
    assert (batch[0, 3:, :16] == 0).all()
    assert batch[0, 3:, 16:].isnan().all()
    assert collate_bags([first]).data_ptr() == first.data_ptr(), "one bag is not copied"


@pytest.mark.parametrize("bags", [[], [torch.zeros(3, 19), torch.zeros(3, 20)], [torch.zeros(3, 2)], [torch.zeros(9)]])
def test_what_makes_no_batch(bags: list[torch.Tensor]) -> None:
    with pytest.raises(UserError, match="Got bags of shapes"):
        collate_bags(bags)


@pytest.mark.parametrize(
    "x",
    [torch.full((1, 4, 19), math.nan), torch.zeros(1, 0, 19), collate_bags([torch.zeros(0, 19), torch.zeros(2, 19)])],
)
def test_a_bag_without_a_tile(x: torch.Tensor) -> None:
    with pytest.raises(UserError, match="bag without tiles"):
        make()(x.double())


@pytest.mark.parametrize("shape", [(4, 19), (1, 4, 16), (1, 4, 20)])
def test_another_width(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected \(batch, tiles, 19\), 16 features"):
        make()(torch.zeros(shape))


@pytest.mark.parametrize("name", [name for name in BAG_MODELS if "_nano" in name])
def test_named(name: str) -> None:
    model = timm.create_model(name, in_features=16, depth=1, num_classes=3)
    assert isinstance(model, BagTransformer)
    assert isinstance(model.blocks[0].attn, ATTENTIONS[name.removesuffix("_bag_nano")])
    model(collate_bags([bag(30).float(), bag(50).float()])).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_names() -> None:
    sizes = ("nano", "tiny", "small", "base")
    assert set(BAG_MODELS) == {f"{attention}_bag_{size}" for attention in ATTENTIONS for size in sizes}
    assert set(BAG_MODELS) <= set(list_models())


def test_training_tools() -> None:
    model, x, gradients = make(pool="token", mlp_chunk=16), collate_bags([bag(30), bag(50)]), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    rate = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert rate["patch_embed.proj.weight"] < rate["blocks.0.attn.qkv.weight"] < rate["head.weight"] == 1
    model.reset_classifier(2)
    assert model(x).shape == (2, 2)
    mask = model.mask_of(x)
    assert model.forward_head(model.forward_features(x), mask, pre_logits=True).shape == (2, 24)


def test_saved_and_loaded(tmp_path: Path) -> None:
    model, x = BagTransformer(**SMALL, pool="token").eval(), bag(9).float().unsqueeze(0)
    model.save_pretrained(tmp_path)
    assert torch.equal(BagTransformer.from_pretrained(tmp_path, strict=True)(x), model(x))


@pytest.mark.slow
def test_export_keeps_the_number_of_tiles_free() -> None:
    model, free = make(), torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (bag(40).unsqueeze(0),), dynamic_shapes={"x": {1: free}})
    x = bag(77).unsqueeze(0)
    torch.testing.assert_close(program.module()(x), model(x))


TRAINING = """
import resource, torch
from softfree.models import create_model
model = create_model("seqnorm_bag_tiny", in_features=512, num_classes=2)
model.set_grad_checkpointing()
optimizer = torch.optim.AdamW(model.parameters())
x = torch.randn(1, 20_000, 515)
x[..., -1] = 0
for _ in range(2):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), torch.tensor([1])).backward()
    optimizer.step()
assert all(p.isfinite().all() for p in model.parameters())
"""
PREDICTION = """
import resource, torch
from softfree.models import create_model
model = create_model("seqnorm_bag_nano", in_features=512, num_classes=2).eval()
x = torch.randn(1, 1_000_000, 515)
x[..., -1] = 0
with torch.inference_mode():
    assert model(x).isfinite().all()
"""


@pytest.mark.cpu("runs in a process of its own")
@pytest.mark.slow
@pytest.mark.parametrize(("program", "limit"), [(TRAINING, 2 * GIB), (PREDICTION, 8 * GIB)], ids=["train", "predict"])
def test_memory_of_a_process(program: str, limit: int) -> None:
    """All of it: Python, its libraries, the bag and what the model needs; 20,000 tiles train, a million predict."""
    program += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    print(f"{peak / GIB:.2f} GiB")
    assert 0.5 * GIB < peak < limit
