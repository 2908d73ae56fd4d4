"""Position codes."""

from __future__ import annotations

import math

import pytest
import torch

from softfree.models.pos_embed import PositionalConv, resize_in_graph, resize_positions, sincos_positions
from softfree_runtime.core.errors import UserError


def test_sincos_formula() -> None:
    """A quarter of the width each: sine and cosine of the row, sine and cosine of the column, in some order."""
    codes = sincos_positions((3, 5), 16)[0].view(3, 5, 16)
    frequencies = [10_000 ** (-i / 4) for i in range(4)]
    want = sorted(f(place * w) for place in (2, 3) for w in frequencies for f in (math.sin, math.cos))
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
    assert torch.equal(got[:, 0], tokens[:, 0]), "the class token has no place"
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
    codes = torch.randn(1, 14 * 14, 8).to(dtype)
    want = resize_positions(codes, (14, 14), (9, 23), 0)
    with torch.autocast("cpu", dtype):
        got = resize_in_graph(codes, (14, 14), (9, 23), 0)
    torch.testing.assert_close(got, want, rtol=torch.finfo(dtype).eps, atol=1e-6)


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
