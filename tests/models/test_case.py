"""Models of cases: any number of images in any order, padding without effect, views and times told apart."""

from __future__ import annotations

import math

import pytest
import torch
from timm.models._manipulate import group_with_matcher
from torch import Tensor

from softfree.attention import ATTENTIONS
from softfree.models.case import CaseTransformer
from softfree.models.registry import create_case_model
from softfree_runtime.core.errors import UserError

SHAPE = [1, 32, 48]
OPTIONS = {"img_size": (32, 48), "in_chans": 1, "num_classes": 2, "depth": 2, "pool": "mean_topk", "stem": "pool"}


def make(attention: str = "seqnorm", timed: bool = True, **options: object) -> CaseTransformer:
    torch.manual_seed(0)
    case = {"shape": SHAPE, "views": 3, "timed": timed}
    model = create_case_model(f"{attention}_vit_nano_patch16", case, **OPTIONS | options).double().eval()
    for parameter in (model.pos_embed, model.case_embed.view.weight):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def draw(images: int, seed: int) -> Tensor:
    """A case (1, R, F + 3): known views and times, but for the first image's time."""
    random = torch.Generator().manual_seed(seed)
    case = torch.randn(1, images, math.prod(SHAPE) + 3, generator=random, dtype=torch.float64)
    case[..., -3] = torch.randint(0, 4, (1, images), generator=random)
    case[..., -2] = -torch.rand(1, images, generator=random, dtype=torch.float64)
    case[..., -1] = 0
    case[0, 0, -2] = math.nan
    return case


def padded(case: Tensor, images: int) -> Tensor:
    padding = torch.zeros(1, images - case.shape[1], case.shape[2], dtype=case.dtype)
    padding[..., -3:] = math.nan
    return torch.cat([case, padding], dim=1)


@pytest.mark.parametrize("attention", sorted({*ATTENTIONS} - {"performer"}))
def test_padding_does_not_matter(attention: str) -> None:
    model = make(attention)
    first, second = draw(4, 1), draw(2, 2)
    together = model(torch.cat([first, padded(second, 4)]))
    torch.testing.assert_close(together, torch.cat([model(first), model(second)]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attention", ["seqnorm", "sima", "softmax", "galerkin"])
def test_the_order_of_images_does_not_matter(attention: str) -> None:
    model, case = make(attention), draw(4, 1)
    torch.testing.assert_close(model(case[:, [2, 0, 3, 1]]), model(case), rtol=1e-9, atol=1e-9)


def test_a_case_is_one_sequence() -> None:
    """The tokens of all images are those of the model of one image, with view and time added, in one sequence."""
    model, case = make(), draw(3, 1)
    images = case[0, :, :-3].reshape(3, *SHAPE)
    root = 128**0.5  # codes are scaled by the root of the width
    views = model.case_embed.view.weight * root
    own = [views[0] + views[number] if number else views[0] for number in case[0, :, -3].long().tolist()]
    tokens = model.embed(images)[0] + torch.stack(own).unsqueeze(1)
    for number in (1, 2):
        angle = 2 * math.pi * case[0, number, -2] * torch.tensor([0.25, 0.5, 1, 2, 4], dtype=torch.float64)
        tokens[number] += root * model.case_embed.time(torch.cat([angle.sin(), angle.cos()]))
    want = model.forward_head(model.norm(model.blocks(tokens.reshape(1, -1, 128))))
    torch.testing.assert_close(model(case), want)


@pytest.mark.parametrize(("column", "values"), [(-3, (1, 2)), (-2, (-0.5, -0.25))])
def test_views_and_times_matter(column: int, values: tuple[float, float]) -> None:
    model, case = make(), draw(2, 1)
    other = case.clone()
    case[0, 1, column], other[0, 1, column] = values
    assert (model(other) - model(case)).abs().max() > 1e-6


def test_a_view_that_training_did_not_meet_is_an_unknown_view() -> None:
    torch.manual_seed(0)
    model = create_case_model("seqnorm_vit_nano_patch16", {"shape": SHAPE, "views": 3}, **OPTIONS).double().eval()
    known, unknown = draw(2, 1), draw(2, 1)
    known[..., -3], unknown[..., -3] = 2, 0
    torch.testing.assert_close(model(known), model(unknown), rtol=0, atol=0)


def test_checkpointed_images_have_the_same_gradients() -> None:
    model, case = make().train(), torch.cat([draw(3, 1), padded(draw(2, 2), 3)])
    gradients = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model(case).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_every_parameter_has_a_group() -> None:
    model = make()
    groups = group_with_matcher(model.named_parameters(), model.group_matcher(), reverse=True)
    assert groups["case_embed.view.weight"] == groups["case_embed.time.bias"] == groups["pos_embed"] == 0
    assert "case_embed.view.weight" in model.no_weight_decay()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_token": True}, "a class token for cases"),
        ({"pos_conv": True}, "pos_conv=True for cases"),
        ({"colour": 1}, "Unknown option of seqnorm_vit_nano_patch16: 'colour'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_cases_that_are_none() -> None:
    model = make(timed=False)
    with pytest.raises(UserError, match=r"cases of shape \(1, 2, 9\): expected \(batch, images, 1539\)"):
        model(torch.zeros(1, 2, 9, dtype=torch.float64))
    with pytest.raises(UserError, match="a case without images"):
        model(torch.cat([draw(2, 1), padded(draw(1, 1), 2)[:, [1, 1]]]))
    with pytest.raises(UserError, match="'seqnorm_bag_nano' for cases"):
        create_case_model("seqnorm_bag_nano", {"shape": SHAPE})


def test_volumes() -> None:
    torch.manual_seed(0)
    case = {"shape": [1, 8, 16, 16], "views": 1}
    options = {"img_size": (8, 16, 16), "in_chans": 1, "num_classes": 3, "depth": 1}
    model = create_case_model("sima_vit3d_nano", case, **options).double().eval()
    volumes = torch.randn(2, 3, 8 * 16 * 16 + 3, dtype=torch.float64)
    volumes[..., -3:] = 0
    whole = model(volumes)
    assert whole.shape == (2, 3)
    torch.testing.assert_close(model(volumes[1:]), whole[1:])


VOLUME = {"kind": "volume", "shape": [1, 8, 16, 16], "patch_size": [4, 8, 8]}
SMALLER = {"kind": "image", "shape": [3, 16, 16], "patch_size": 8}


def make_mixed(attention: str = "seqnorm") -> CaseTransformer:
    torch.manual_seed(0)
    case = {"shape": SHAPE, "views": 3, "timed": True, "others": [VOLUME, SMALLER]}
    model = create_case_model(f"{attention}_vit_nano_patch16", case, **OPTIONS).double().eval()
    for parameter in (model.case_embed.view.weight, *(p for n, p in model.named_parameters() if "pos_embed" in n)):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def draw_mixed(tokenizers: list[int], seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    case = torch.randn(1, len(tokenizers), 8 * 16 * 16 + 3, generator=random, dtype=torch.float64)
    case[..., -3] = torch.randint(0, 4, (1, len(tokenizers)), generator=random)
    case[..., -1] = torch.tensor(tokenizers)
    return case


def test_tokenizers_of_a_case() -> None:
    """The tokens of each image are those of its own tokenizer, with view and time added, in one sequence."""
    model, case = make_mixed(), draw_mixed([1, 0, 2, 0], 1)
    tokens = []
    for row in case[0]:
        number = int(row[-1])
        shape = [SHAPE, VOLUME["shape"], SMALLER["shape"]][number]
        own = model.tokenizer(number).embed(row[: math.prod(shape)].reshape(1, *shape))[0][0]
        tokens.append(own + model.case_embed(row[-3], row[-2]))
    assert [len(own) for own in tokens] == [8, 6, 4, 6]
    want = model.forward_head(model.norm(model.blocks(torch.cat(tokens).unsqueeze(0))))
    torch.testing.assert_close(model(case), want)
    noise = case.clone()
    for row, shape in zip(noise[0], (VOLUME["shape"], SHAPE, SMALLER["shape"], SHAPE), strict=True):
        row[math.prod(shape) : -3] = math.nan
    torch.testing.assert_close(model(noise), want, msg="values behind the pixels are not looked at")


@pytest.mark.parametrize("attention", ["seqnorm", "sima", "softmax", "galerkin"])
def test_mixed_cases_in_a_batch_and_in_any_order(attention: str) -> None:
    model, first, second = make_mixed(attention), draw_mixed([1, 0, 2], 1), draw_mixed([0, 2], 2)
    together = model(torch.cat([first, padded(second, 3)]))
    torch.testing.assert_close(together, torch.cat([model(first), model(second)]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(first[:, [2, 0, 1]]), model(first), rtol=1e-9, atol=1e-9)


def test_every_tokenizer_learns() -> None:
    model, case = make_mixed().train(), torch.cat([draw_mixed([1, 0, 2], 1), padded(draw_mixed([1], 2), 3)])
    gradients = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model(case).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])
    own = ("tokenizers", "patch_embed", "pos_embed", "case_embed")
    assert all(gradient.abs().sum() > 0 for name, gradient in gradients[0].items() if name.startswith(own))
    groups = group_with_matcher(model.named_parameters(), model.group_matcher(), reverse=True)
    assert {group for name, group in groups.items() if name.startswith("tokenizers")} == {0}
    assert {"tokenizers.1.pos_embed"} <= model.no_weight_decay()


def test_a_tokenizer_that_the_model_does_not_have() -> None:
    with pytest.raises(UserError, match="a number of a tokenizer above 2"):
        make_mixed()(draw_mixed([0, 3], 1))
