"""Pictures of any size and any number of channels to tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from softfree.errors import UserError
from softfree.models.tokenizers import STEMS, ConvStem, PatchEmbed, fit_picture


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
def test_gray_in_a_colour_model_is_gray_in_every_channel(stem: str) -> None:
    embed, gray = STEMS[stem](8, 3, 16), torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(embed(gray)[0], embed(gray.expand(-1, 3, -1, -1))[0])


@pytest.mark.parametrize(("got", "model"), [(3, 1), (4, 3), (2, 5)])
def test_other_channel_counts_are_seen_as_their_mean(got: int, model: int) -> None:
    x = torch.randn(2, got, 8, 8)
    seen = fit_picture(x, model, 4)
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


def test_conv_stem_knows_neither_the_batch_nor_the_far_picture() -> None:
    stem = ConvStem(8, 3, 16).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tokens, _ = stem(x)
    torch.testing.assert_close(stem(x[1:])[0], tokens[1:])
    changed = x.clone()
    changed[:, :, 32:] *= 100
    top = slice(0, 3 * 8)  # rows of tokens whose receptive field ends above the change
    torch.testing.assert_close(stem(changed)[0][:, top], tokens[:, top])
    assert not torch.allclose(stem(changed)[0], tokens)


def test_conv_stem_does_not_look_at_padding() -> None:
    stem, x = ConvStem(8, 3, 16), torch.randn(2, 3, 32, 32)
    mask = torch.rand(2, 16) > 0.4
    pixels = mask.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(stem(x.where(pixels, float("nan")), mask)[0], stem(x.where(pixels, 0.0))[0])


@pytest.mark.parametrize("patch_size", [1, 12, 14])
def test_conv_stem_needs_a_power_of_two(patch_size: int) -> None:
    with pytest.raises(UserError, match=f"patch_size={patch_size}"):
        ConvStem(patch_size, 3, 16)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 32, 32, 32), (1, 0, 32, 32), (1, 3, 0, 32)])
def test_what_is_no_batch_of_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expected \\(batch, channels, height, width\\)"):
        PatchEmbed(8, 3, 16)(torch.zeros(shape))
