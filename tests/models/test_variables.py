"""Embedding of clinical variables."""

from __future__ import annotations

import math

import pytest
import torch

from softfree.models.bag import BagTransformer, collate_bags
from softfree.models.registry import build_model, create_case_model, create_slide_model
from softfree.models.variables import VariableEmbedding
from softfree_runtime.core.errors import UserError

NAN = math.nan
VARIABLES = [{"mean": 60.0, "std": 10.0}, {"categories": 2}]
SHAPE = (1, 16, 16)


def test_the_sum_over_known_variables() -> None:
    embed = VariableEmbedding(VARIABLES, 4)
    with torch.no_grad():
        embed.embeddings[1].weight[1:] = torch.randn(2, 4)
        line, table = embed.embeddings
        values = torch.tensor([[70.0, 2.0], [60.0, NAN], [NAN, 1.0], [NAN, NAN], [NAN, 0.0]])
        rows = embed(values) / 2  # the square root of the width
        torch.testing.assert_close(rows[0], line.weight[:, 0] + line.bias + table.weight[0] + table.weight[2])
        torch.testing.assert_close(rows[1], line.bias)
        torch.testing.assert_close(rows[2], table.weight[0] + table.weight[1])
        torch.testing.assert_close(rows[3], torch.zeros(4))
        torch.testing.assert_close(rows[4], table.weight[0])


def test_a_category_without_training_acts_like_an_unknown_one() -> None:
    rows = VariableEmbedding([{"categories": 3}], 8)(torch.tensor([[0.0], [3.0]]))
    assert rows[0].abs().min() > 0
    assert torch.equal(rows[0], rows[1])


def test_unknown_variables_have_no_gradient() -> None:
    embed = VariableEmbedding(VARIABLES, 4)
    embed(torch.tensor([[NAN, 1.0]])).sum().backward()
    assert not embed.embeddings[0].weight.grad.any()
    assert embed.embeddings[1].weight.grad[1].all()


@pytest.mark.parametrize("variable", [{}, {"mean": 1.0}, {"mean": 1.0, "std": 0.0}, {"categories": 2, "mean": 1.0}])
def test_a_variable_without_a_scale_is_refused(variable: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected 'categories', or 'mean' and 'std' above 0"):
        VariableEmbedding([variable], 4)


def test_cases_with_variables() -> None:
    torch.manual_seed(0)
    options = {"img_size": 16, "in_chans": 1, "num_classes": 2, "depth": 1, "drop_path_rate": 0.0}
    case = {"shape": SHAPE, "views": 1, "variables": VARIABLES}
    model = create_case_model("seqnorm_vit_nano_patch8", case, **options).eval()
    plain = create_case_model("seqnorm_vit_nano_patch8", {"shape": SHAPE, "views": 1}, **options).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    pixels = torch.randn(2, 3, 256)
    header = torch.tensor([1.0, NAN, 0.0]).expand(2, 3, 3)

    def with_variables(age: float, sex: float) -> torch.Tensor:
        return torch.cat([pixels, torch.tensor([age, sex]).expand(2, 3, 2), header], dim=2)

    with torch.no_grad():
        unknown = model(with_variables(NAN, NAN))
        torch.testing.assert_close(unknown, plain(torch.cat([pixels, header], dim=2)))
        assert (model(with_variables(80.0, NAN)) - unknown).abs().max() > 1e-3
        padded = torch.full((2, 4, 261), NAN)
        padded[:, :3] = with_variables(80.0, 2.0)
        torch.testing.assert_close(model(padded), model(with_variables(80.0, 2.0)))
    with pytest.raises(UserError, match=r"expected \(batch, images, 261\).* 2 clinical variables"):
        model(torch.cat([pixels, header], dim=2))
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1} - model.no_weight_decay()
    assert "variable_embed.embeddings.0.weight" in decayed
    assert "variable_embed.embeddings.1.weight" not in decayed


def test_bags_with_variables() -> None:
    torch.manual_seed(0)
    options = {"in_features": 5, "num_classes": 2, "embed_dim": 24, "depth": 1, "num_heads": 3, "views": 1}
    model = BagTransformer(variables=VARIABLES, **options).eval()
    plain = BagTransformer(**options).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    tiles, place = torch.randn(6, 5), torch.rand(6, 5)
    place[:, 0] = 1.0

    def bag(age: float, sex: float) -> torch.Tensor:
        return torch.cat([tiles, torch.tensor([age, sex]).expand(6, 2), place], dim=1)

    with torch.no_grad():
        unknown, known = model(bag(NAN, NAN)[None]), model(bag(80.0, 1.0)[None])
        torch.testing.assert_close(unknown, plain(torch.cat([tiles, place], dim=1)[None]))
        assert (known - unknown).abs().max() > 1e-3
        both = model(collate_bags([bag(80.0, 1.0)[:4], bag(NAN, NAN), bag(40.0, 2.0)]))
        torch.testing.assert_close(both[:1], model(bag(80.0, 1.0)[None, :4]))
        torch.testing.assert_close(both[1:2], unknown)
        padded = torch.cat([torch.full((2, 12), NAN), bag(80.0, 1.0)])  # in front of the tiles
        torch.testing.assert_close(model(padded[None]), known)
    with pytest.raises(
        UserError, match=r"expected \(batch, tiles, 12\), 5 features, 2 clinical variables, view and time"
    ):
        model(torch.zeros(1, 2, 10))
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1} - model.no_weight_decay()
    assert "patch_embed.variable_embed.embeddings.0.weight" in decayed
    assert "patch_embed.variable_embed.embeddings.1.weight" not in decayed


def test_many_tiles_are_embedded_in_chunks_with_one_code() -> None:
    embed = BagTransformer(5000, 2, 24, 1, 3, variables=VARIABLES).patch_embed
    tiles = torch.cat([torch.randn(600, 5000), torch.tensor([70.0, 1.0]).expand(600, 2), torch.rand(600, 3)], dim=1)
    expected = embed(tiles[None])
    with torch.no_grad():
        torch.testing.assert_close(embed(tiles[None]), expected)


def slide_model(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = {"name": "seqnorm_vit_nano_patch8", "img_size": 16, "num_classes": 2, "depth": 1, **options}
    return build_model({"model": model | {"slide": {"variables": VARIABLES}}}).eval()


def slide(pixels: torch.Tensor, *values: float) -> torch.Tensor:
    """Pixels (3, H, W) with a channel that begins with values."""
    channel = torch.zeros(1, *pixels.shape[1:], dtype=pixels.dtype)
    channel.view(-1)[: len(values)] = torch.tensor(values, dtype=pixels.dtype)
    return torch.cat([pixels, channel])


@pytest.mark.parametrize("pool", ["mean_topk", "token"])
def test_slides_with_variables(pool: str) -> None:
    model = slide_model(pool=pool)
    plain = build_model({"model": {"name": "seqnorm_vit_nano_patch8", "img_size": 16, "num_classes": 2, "depth": 1,
                                   "pool": pool}}).eval()  # fmt: skip
    plain.load_state_dict(model.state_dict(), strict=False)
    pixels = torch.randn(3, 40, 24)
    with torch.no_grad():
        unknown = model(slide(pixels, NAN, NAN)[None])
        torch.testing.assert_close(unknown, plain(pixels[None]))
        assert (model(slide(pixels, 80.0, 1.0)[None]) - unknown).abs().max() > 1e-3
        narrow = pixels[:, :, :1]
        torch.testing.assert_close(model(slide(narrow, NAN, NAN)[None]), plain(narrow[None]))
    with pytest.raises(UserError, match=r"expected \(batch, 4, height, width\), the last channel with 2 clinical"):
        model(pixels[None])
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1} - model.no_weight_decay()
    assert "variable_embed.embeddings.0.weight" in decayed
    assert "variable_embed.embeddings.1.weight" not in decayed
    with pytest.raises(UserError, match="'seqnorm_bag_nano' for slides with clinical variables"):
        create_slide_model("seqnorm_bag_nano", {"variables": VARIABLES})
