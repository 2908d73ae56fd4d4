"""Position codes."""

from __future__ import annotations

import math

import pytest
import torch

from softfree.models.pos_embed import (
    BODY_WAVES,
    PositionalConv,
    resize_in_graph,
    resize_positions,
    resize_volume_positions,
    sincos_codes,
    sincos_positions,
    volume_codes,
)
from softfree_runtime.core.errors import UserError

LIKE = torch.zeros(0, dtype=torch.float64)


def test_sincos_formula() -> None:
    """A quarter of the width each: sine and cosine of the row, sine and cosine of the column, in some order."""
    codes = sincos_positions((3, 5), 16)[0].view(3, 5, 16)
    frequencies = [10_000 ** (-i / 4) for i in range(4)]
    want = sorted(f(position * w) for position in (2, 3) for w in frequencies for f in (math.sin, math.cos))
    assert sorted(codes[2, 3].tolist()) == pytest.approx(want, abs=1e-6)
    assert len({tuple(code) for code in codes.view(15, 16).tolist()}) == 15


def test_sincos_leaves_prefix_tokens_alone() -> None:
    codes = sincos_positions((3, 5), 16, num_prefix_tokens=2)
    assert codes.shape == (1, 17, 16)
    assert (codes[:, :2] == 0).all()
    assert torch.equal(codes[:, 2:], sincos_positions((3, 5), 16))


def test_sincos_width() -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        sincos_positions((3, 5), 18)


def test_the_same_grid_is_left_as_it_is() -> None:
    positions = torch.randn(1, 16, 8)
    assert torch.equal(resize_positions(positions, (3, 5), (3, 5), 1), positions)


@pytest.mark.parametrize("new", [(7, 7), (2, 3), (5, 3)])
def test_resizing_keeps_place(new: tuple[int, int]) -> None:
    """Codes that grow linearly with the row keep doing so, and the class token's code stays."""
    rows = (torch.arange(8) + 0.5) / 8
    positions = torch.cat(
        [torch.full((1, 1, 2), 9.0), rows.repeat_interleave(6).view(1, 48, 1).expand(-1, -1, 2)], dim=1
    )
    resized = resize_positions(positions, (8, 6), new, 1)
    assert resized.shape == (1, 1 + new[0] * new[1], 2)
    assert (resized[:, 0] == 9).all()
    want = (torch.arange(new[0]) + 0.5) / new[0]
    torch.testing.assert_close(resized[0, 1:, 0].view(new), want[:, None].expand(new), rtol=0, atol=0.04)


def test_positional_conv_adds_a_weighted_sum_of_the_neighbors() -> None:
    torch.manual_seed(0)
    layer, tokens = PositionalConv(4).double(), torch.randn(2, 1 + 3 * 5, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.conv.bias.normal_()
    got = layer(tokens, (3, 5))
    assert torch.equal(got[:, 0], tokens[:, 0]), "the class token has no position"
    image = tokens[:, 1:].view(2, 3, 5, 4)
    for row, column in ((0, 0), (1, 2), (2, 4)):
        want = image[:, row, column] + layer.conv.bias
        for down, right in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
            if 0 <= row + down < 3 and 0 <= column + right < 5:
                weight = layer.conv.weight[:, 0, down + 1, right + 1]
                want = want + weight * image[:, row + down, column + right]
        torch.testing.assert_close(got[:, 1:].view(2, 3, 5, 4)[:, row, column], want)


def test_positional_conv_sees_padding_as_zero() -> None:
    layer, tokens = PositionalConv(4).double(), torch.randn(1, 3 * 5, 4, dtype=torch.float64)
    mask = torch.ones(1, 15, dtype=torch.bool)
    mask[0, 7] = False
    padded = tokens.masked_fill(~mask.unsqueeze(-1), float("nan"))
    zero = tokens.masked_fill(~mask.unsqueeze(-1), 0)
    assert torch.equal(layer(padded, (3, 5), mask)[mask], layer(zero, (3, 5))[mask])


def test_positional_conv_needs_a_grid() -> None:
    with pytest.raises(UserError, match="rows and columns of an image"):
        PositionalConv(4)(torch.randn(1, 15, 4), None)


@pytest.mark.parametrize("prefix", [0, 1])
def test_one_column_is_resized_as_one_row_is(prefix: int) -> None:
    codes = torch.randn(1, prefix + 12, 8)
    turned = torch.cat([codes[:, :prefix], codes[:, prefix:].unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)], dim=1)
    column = resize_positions(codes, (3, 4), (7, 1), prefix)
    row = resize_positions(turned, (4, 3), (1, 7), prefix)
    torch.testing.assert_close(column, row)
    assert column[0, prefix:].std(0).min() > 0  # the rows differ
    back = resize_positions(column, (7, 1), (3, 4), prefix)[:, prefix:].unflatten(1, (3, 4))
    forth = resize_positions(row, (1, 7), (4, 3), prefix)[:, prefix:].unflatten(1, (4, 3))
    torch.testing.assert_close(back, forth.transpose(1, 2))


@pytest.mark.parametrize(
    ("old", "new", "prefix"),
    [
        ((16, 16), (9, 23), 1),
        ((14, 14), (40, 7), 0),
        ((7, 5), (1, 1), 0),
        ((7, 5), (3, 1), 0),
        ((1, 5), (3, 9), 2),
        ((32, 32), (101, 17), 0),
    ],
)
def test_resizing_in_a_graph_is_that_outside(old: tuple[int, int], new: tuple[int, int], prefix: int) -> None:
    codes = torch.randn(1, prefix + old[0] * old[1], 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        resize_in_graph(codes, old, new, prefix), resize_positions(codes, old, new, prefix), atol=5e-6, rtol=0
    )


def test_an_equal_grid_changes_nothing_in_a_graph() -> None:
    codes = torch.randn(1, 1 + 6 * 7, 4)
    assert torch.equal(resize_in_graph(codes, (6, 7), (6, 7), 1), codes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_resizing_in_a_graph_in_half_precision(dtype: torch.dtype) -> None:
    """The weights are float32 all the same, under autocast too."""
    codes = torch.randn(1, 14 * 14, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    want = resize_positions(codes, (14, 14), (9, 23), 0)
    with torch.autocast(torch.get_default_device().type, dtype):
        got = resize_in_graph(codes, (14, 14), (9, 23), 0)
    # Sums in float32 of terms of about one, which may cancel.
    torch.testing.assert_close(got, want, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_resizing_compiled_for_any_grid() -> None:
    """Values and gradients, at a size that the graph was not made for, too."""
    torch._dynamo.reset()
    old, sizes = (4, 5), ((4, 5), (6, 7), (3, 9), (8, 1))

    def add(image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        grid = (image.shape[1], image.shape[2])
        return image.flatten(1, 2) + resize_positions(codes, old, grid, 1)[:, 1:]

    compiled = torch.compile(add, backend="aot_eager", fullgraph=True)
    for grid in sizes:
        image, weights = torch.randn(2, *grid, 6), torch.randn(grid[0] * grid[1], 6)
        codes = torch.randn(1, 1 + 20, 6, requires_grad=True)
        got, want = compiled(image, codes), add(image, codes)
        torch.testing.assert_close(got, want, atol=5e-6, rtol=0)
        slopes = [torch.autograd.grad((y * weights).sum(), codes)[0] for y in (got, want)]
        torch.testing.assert_close(*slopes, atol=5e-5, rtol=0)


def test_sincos_codes_formula() -> None:
    """Two axes, width 9: two wavelengths each, one feature left over."""
    codes = sincos_codes(torch.tensor([[3.0, -0.5]], dtype=torch.float64), 9, [(2.0, 50.0), (1.0, 4.0)])[0].tolist()
    turns = [3 / 2, 3 / 50, -0.5 / 1, -0.5 / 4]
    sines, cosines = ([f(2 * math.pi * turn) for turn in turns] for f in (math.sin, math.cos))
    assert codes == pytest.approx([*sines[:2], *cosines[:2], *sines[2:], *cosines[2:], 0])


def test_a_token_has_the_code_of_its_center() -> None:
    codes = volume_codes((2, 3, 4), (5.0, 6.0, 7.0), 32, LIKE)
    assert codes.shape == (1, 24, 32)
    center = torch.tensor([1.5 * 5, 2.5 * 6, 0.5 * 7], dtype=torch.float64)  # second layer, third row, first column
    torch.testing.assert_close(codes[0, 12 + 2 * 4], sincos_codes(center, 32, [BODY_WAVES] * 3))
    assert len({tuple(code) for code in codes[0].tolist()}) == 24


def test_the_same_place_has_the_same_code_at_another_spacing() -> None:
    """Voxels of half the size in patches of twice as many; and a longer axis moves no token."""
    coarse = volume_codes((2, 3, 4), [4 * 1.0, 8 * 0.7, 8 * 0.7], 24, LIKE)
    fine = volume_codes((2, 3, 4), [8 * 0.5, 16 * 0.35, 16 * 0.35], 24, LIKE)
    torch.testing.assert_close(fine, coarse, rtol=0, atol=1e-12)
    longer = volume_codes((3, 3, 4), [4 * 1.0, 8 * 0.7, 8 * 0.7], 24, LIKE)
    assert torch.equal(longer[:, :24], coarse)


def test_half_precision_is_rounded_only_at_the_end() -> None:
    wide = volume_codes((1, 1, 200), (4.0, 8.0, 8.0), 24, LIKE)
    narrow = volume_codes((1, 1, 200), (4.0, 8.0, 8.0), 24, torch.zeros(0, dtype=torch.bfloat16))
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=5e-3)


@pytest.mark.parametrize("new", [(4, 6, 8), (3, 4, 2), (2, 3, 9)])
def test_volume_resizing_keeps_place(new: tuple[int, int, int]) -> None:
    """Codes that grow linearly along each axis keep doing so inside, and the class token's code stays."""
    old = (4, 6, 8)

    def ramps(grid: tuple[int, int, int]) -> torch.Tensor:
        axes = [(torch.arange(side) + 0.5) / side for side in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2).unsqueeze(0)

    resized = resize_volume_positions(torch.cat([torch.full((1, 1, 3), 9.0), ramps(old)], dim=1), old, new, 1)
    assert (resized[:, 0] == 9).all()
    edges = torch.tensor([0.5 / side for side in old])  # outside of the first and last center the codes are flat
    torch.testing.assert_close(resized[:, 1:], ramps(new).clamp(edges, 1 - edges))
    assert resized.shape == (1, 1 + math.prod(new), 3)


def test_volume_resizing_compiled_for_any_grid() -> None:
    """Values and gradients, at a size that the graph was not made for, too."""
    torch._dynamo.reset()
    old = (2, 3, 4)

    def add(volume: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return volume.flatten(1, 3) + resize_volume_positions(codes, old, volume.shape[1:4], 1)[:, 1:]

    compiled = torch.compile(add, backend="aot_eager", fullgraph=True)
    for grid in (old, (3, 4, 5), (6, 7, 2)):
        volume, codes = torch.randn(2, *grid, 6), torch.randn(1, 1 + 24, 6, requires_grad=True)
        got, want = compiled(volume, codes), add(volume, codes)
        torch.testing.assert_close(got, want, atol=5e-6, rtol=0)
        weights = torch.randn_like(got)
        slopes = [torch.autograd.grad((y * weights).sum(), codes)[0] for y in (got, want)]
        torch.testing.assert_close(*slopes, atol=5e-5, rtol=0)
