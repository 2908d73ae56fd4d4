"""Volumes of any size and any number of channels to tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from softfree.models.patch_embed_3d import STEMS_3D, ConvStem3d, PatchEmbed3d, PoolStem3d, fit_volume
from softfree_runtime.core.errors import UserError

PATCH = (2, 4, 8)


def test_patch_is_a_linear_map_of_its_voxels() -> None:
    embed = PatchEmbed3d(PATCH, in_chans=2, embed_dim=6).double()
    x = torch.randn(3, 2, 4, 12, 16, dtype=torch.float64)
    tokens, grid = embed(x)
    assert grid == (2, 3, 2)
    assert tokens.shape == (3, 12, 6)
    torch.testing.assert_close(tokens, embed.proj(x).flatten(2).mT)
    patch = x[1, :, 2:4, 4:8, 8:16].flatten()  # second layer, second row, second column
    torch.testing.assert_close(tokens[1, 6 + 2 + 1], embed.proj.weight.flatten(1) @ patch + embed.proj.bias)


@pytest.mark.parametrize("stem", STEMS_3D)
def test_the_end_of_each_axis_is_padded_with_zeros(stem: str) -> None:
    embed = STEMS_3D[stem](PATCH, 2, 16)
    x = torch.randn(2, 2, 5, 9, 17)
    tokens, grid = embed(x)
    assert grid == (3, 3, 3)
    torch.testing.assert_close(tokens, embed(F.pad(x, (0, 7, 0, 3, 0, 1)))[0])


@pytest.mark.parametrize("stem", STEMS_3D)
def test_one_channel_is_the_same_in_every_channel(stem: str) -> None:
    embed, gray = STEMS_3D[stem](PATCH, 3, 16), torch.randn(2, 1, 4, 8, 16)
    torch.testing.assert_close(embed(gray)[0], embed(gray.expand(-1, 3, -1, -1, -1))[0])


def test_other_channel_counts_are_seen_as_their_mean() -> None:
    x = torch.randn(2, 3, 2, 4, 8)
    torch.testing.assert_close(fit_volume(x, 2, PATCH), x.mean(1, keepdim=True).expand(-1, 2, -1, -1, -1))


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((4, 8, 8), [(2, 2, 2), (2, 2, 2), (1, 2, 2)]),
        ((1, 4, 2), [(1, 2, 2), (1, 2, 1)]),
        ((8, 8, 8), [(2, 2, 2)] * 3),
    ],
)
def test_conv_stem_shrinks_each_axis_to_its_side(patch: tuple[int, int, int], strides: list[tuple[int, ...]]) -> None:
    stem = ConvStem3d(patch, 1, 64)
    convolutions = [m for m in stem.modules() if isinstance(m, torch.nn.Conv3d)]
    assert [c.stride for c in convolutions] == strides
    tokens, grid = stem(torch.randn(1, 1, *(3 * side for side in patch)))
    assert grid == (3, 3, 3)
    assert tokens.shape == (1, 27, 64)


def test_pool_stem_pools_each_axis_down_to_its_side() -> None:
    stem, x = PoolStem3d((2, 4, 8), 1, 16).double(), torch.randn(1, 1, 4, 8, 16, dtype=torch.float64)
    tokens, grid = stem(x)
    assert grid == (2, 2, 2)
    first, second, third = (layer for layer in stem.stem if isinstance(layer, torch.nn.Conv3d))
    voxels = F.gelu(F.conv3d(x, first.weight, first.bias, stride=2, padding=1))  # (2, 4, 8)
    voxels = F.conv3d(voxels, second.weight, second.bias, padding=1)
    voxels = F.gelu(voxels.unflatten(3, (-1, 2)).unflatten(5, (-1, 2)).amax((4, 6)))
    voxels = F.conv3d(voxels, third.weight, third.bias, padding=1).unflatten(4, (-1, 2)).amax(5)
    torch.testing.assert_close(tokens, voxels.flatten(2).transpose(1, 2))


def test_conv_stem_does_not_look_at_padding() -> None:
    stem, x = ConvStem3d(PATCH, 2, 16), torch.randn(2, 2, 4, 8, 16)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0, 1, 1]]) > 0
    voxels = mask.view(2, 1, 2, 2, 2)
    for axis, side in enumerate(PATCH, start=2):
        voxels = voxels.repeat_interleave(side, axis)
    torch.testing.assert_close(stem(x.where(voxels, float("nan")), mask)[0], stem(x.where(voxels, 0.0))[0])


@pytest.mark.parametrize("patch", [(1, 1, 1), (4, 12, 8), (3, 8, 8)])
def test_conv_stem_needs_powers_of_two(patch: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="expected powers of two"):
        ConvStem3d(patch, 1, 16)


@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (1, 0, 8, 8, 8), (1, 1, 8, 0, 8)])
def test_what_is_no_batch_of_volumes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected \(batch, channels, depth, height, width\)"):
        PatchEmbed3d(PATCH, 1, 16)(torch.zeros(shape))
