"""Images of any size and any number of channels to tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from softfree.models.patch_embed import STEMS, ConvStem, PatchEmbed, PoolStem, fit_image
from softfree_runtime.core.errors import UserError


def test_patch_is_a_linear_map_of_its_pixels() -> None:
    embed = PatchEmbed(patch_size=4, in_chans=2, embed_dim=6).double()
    x = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    tokens, grid = embed(x)
    assert grid == (2, 3)
    patch = x[1, :, 4:8, 8:12].flatten()  # second row, third column
    want = embed.proj.weight.flatten(1) @ patch + embed.proj.bias
    torch.testing.assert_close(tokens[1, 5], want)
    assert tokens.shape == (3, 6, 6)


@pytest.mark.parametrize("stem", STEMS)
def test_bottom_and_right_are_padded_with_zeros(stem: str) -> None:
    embed = STEMS[stem](8, 3, 16)
    x = torch.randn(2, 3, 21, 33)
    tokens, grid = embed(x)
    assert grid == (3, 5)
    torch.testing.assert_close(tokens, embed(F.pad(x, (0, 7, 0, 3)))[0])


@pytest.mark.parametrize("stem", STEMS)
def test_gray_in_a_color_model_is_gray_in_every_channel(stem: str) -> None:
    embed, gray = STEMS[stem](8, 3, 16), torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(embed(gray)[0], embed(gray.expand(-1, 3, -1, -1))[0])


@pytest.mark.parametrize(("got", "model"), [(3, 1), (4, 3), (2, 5)])
def test_other_channel_counts_are_seen_as_their_mean(got: int, model: int) -> None:
    x = torch.randn(2, got, 8, 8)
    seen = fit_image(x, model, 4)
    assert seen.shape == (2, model, 8, 8)
    for channel in range(model):
        torch.testing.assert_close(seen[:, channel], sum(x[:, c] for c in range(got)) / got)


@pytest.mark.parametrize(("patch_size", "layers"), [(2, 1), (8, 3), (32, 5)])
def test_conv_stem_shrinks_to_the_patch(patch_size: int, layers: int) -> None:
    stem = ConvStem(patch_size, 3, 64)
    convolutions = [m for m in stem.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 2)] * layers
    assert convolutions[-1].out_channels == 64
    tokens, grid = stem(torch.randn(1, 3, 64, 96))
    assert grid == (64 // patch_size, 96 // patch_size)
    assert tokens.shape == (1, grid[0] * grid[1], 64)


def test_pool_stem_is_convolutions_with_maxima_between_them() -> None:
    stem, x = PoolStem(8, 1, 16).double(), torch.randn(1, 1, 32, 24, dtype=torch.float64)
    first, second, third = (layer for layer in stem.stem if isinstance(layer, torch.nn.Conv2d))
    assert (first.stride, second.stride, third.stride) == ((2, 2), (1, 1), (1, 1))
    pixels = F.gelu(F.conv2d(x, first.weight, first.bias, stride=2, padding=1))
    pixels = F.conv2d(pixels, second.weight, second.bias, padding=1)
    pixels = F.gelu(pixels.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5)))
    pixels = F.conv2d(pixels, third.weight, third.bias, padding=1)
    pixels = pixels.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
    torch.testing.assert_close(stem(x)[0], pixels.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("patch_size", [4, 8, 16, 32])
@pytest.mark.parametrize("stem", [ConvStem, PoolStem])
def test_a_token_sees_the_rows_of_its_halo_and_no_others(stem: type[ConvStem], patch_size: int) -> None:
    embed = stem(patch_size, 1, 32).double()
    x = torch.randn(1, 1, 7 * patch_size, 2 * patch_size, dtype=torch.float64, requires_grad=True)
    tokens, _ = embed(x)
    tokens.unflatten(1, (7, 2))[:, 3].sum().backward()
    above, below = embed.halo
    seen = x.grad[0, 0].any(dim=1).nonzero().flatten()
    assert (3 - above) * patch_size <= seen.min() < 3 * patch_size
    assert (4 + below) * patch_size > seen.max()
    assert bool(below) == (seen.max() >= 4 * patch_size)


def test_pool_stem_needs_something_to_pool() -> None:
    with pytest.raises(UserError, match="patch_size=2"):
        PoolStem(2, 3, 16)


def test_conv_stem_knows_neither_the_batch_nor_the_far_image() -> None:
    stem = ConvStem(8, 3, 16).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tokens, _ = stem(x)
    torch.testing.assert_close(stem(x[1:])[0], tokens[1:])
    changed = x.clone()
    changed[:, :, 32:] *= 100
    top = slice(0, 3 * 8)  # rows of tokens whose receptive field ends above the change
    torch.testing.assert_close(stem(changed)[0][:, top], tokens[:, top])
    assert not torch.allclose(stem(changed)[0], tokens)


@pytest.mark.parametrize("kind", [ConvStem, PoolStem])
def test_convolutions_do_not_look_at_padding(kind: type[ConvStem]) -> None:
    stem, x = kind(8, 3, 16), torch.randn(2, 3, 32, 32)
    mask = torch.rand(2, 16) > 0.4
    pixels = mask.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(stem(x.where(pixels, float("nan")), mask)[0], stem(x.where(pixels, 0.0))[0])


@pytest.mark.parametrize("patch_size", [1, 12, 14])
def test_conv_stem_needs_a_power_of_two(patch_size: int) -> None:
    with pytest.raises(UserError, match=f"patch_size={patch_size}"):
        ConvStem(patch_size, 3, 16)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 32, 32, 32), (1, 0, 32, 32), (1, 3, 0, 32)])
def test_what_is_no_batch_of_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expected \\(batch, channels, height, width\\)"):
        PatchEmbed(8, 3, 16)(torch.zeros(shape))
