"""Landmarks and convolutions over the grid against loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from softfree.attention.grid import HeadConv, landmark_sides, stride_sides, window_means
from softfree_runtime.core.errors import UserError


def expected_means(
    t: Tensor, grid: tuple[int, ...], sides: tuple[int, ...], stride: int | None, real: Tensor
) -> Tensor:
    """One window after the other, for one sample: (H, n, D) to (H, m, D), zero where a window is empty."""
    windows: dict[tuple[int, ...], list[int]] = {position: [] for position in itertools.product(*map(range, sides))}
    for number, position in enumerate(itertools.product(*map(range, grid))):
        if real[number]:
            axes = zip(position, grid, sides, strict=True)
            windows[tuple(p // stride if stride else p * s // g for p, g, s in axes)].append(number)
    zero = torch.zeros_like(t[:, 0])
    return torch.stack([t[:, tokens].mean(1) if tokens else zero for tokens in windows.values()], dim=1)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("stride", [None, 2, 3])
@pytest.mark.parametrize("grid", [(7,), (4, 6), (5, 3), (1, 9), (3, 4, 5)], ids=str)
def test_means_of_windows(grid: tuple[int, ...], stride: int | None, masked: bool) -> None:
    torch.manual_seed(0)
    n = torch.Size(grid).numel()
    t = torch.randn(2, 3, n + 1, 4, dtype=torch.float64)
    mask = torch.rand(2, 1, n + 1, 1) < 0.6 if masked else torch.ones(2, 1, n + 1, 1, dtype=torch.bool)
    sides = stride_sides(grid, stride) if stride else landmark_sides(grid, 6)
    got, real = window_means(t, grid, mask if masked else None, number=6, stride=stride)
    for row in range(2):
        want = expected_means(t[row, :, 1:], grid, sides, stride, mask[row, 0, 1:, 0])
        torch.testing.assert_close(got[row], want, rtol=1e-13, atol=1e-13)
        if real is not None:
            assert torch.equal(real[row, 0, :, 0], (want != 0).any(2).all(0))


def test_padding_of_a_sequence_stands_nowhere() -> None:
    t = torch.randn(2, 3, 40, 4, dtype=torch.float64)
    mask = torch.zeros(2, 1, 40, 1, dtype=torch.bool)
    mask[0, 0, torch.randperm(40)[:17]] = True
    mask[1, 0, 5:8] = True
    got, real = window_means(t.masked_fill(~mask, float("nan")), None, mask, number=6)
    for row in range(2):
        alone, _ = window_means(t[row : row + 1, :, mask[row, 0, :, 0]], None, None, number=6)
        torch.testing.assert_close(got[row, :, real[row, 0, :, 0]], alone[0], rtol=1e-13, atol=1e-13)


def test_sides_keep_the_proportion_of_the_grid() -> None:
    assert landmark_sides((14, 14), 49) == (7, 7)
    assert landmark_sides((128, 128), 49) == (7, 7)
    assert landmark_sides((14, 56), 49) == (3, 14)
    assert landmark_sides((2, 2), 49) == (2, 2)
    assert landmark_sides((8, 8, 8), 64) == (4, 4, 4)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("grid", [(9,), (4, 5), (3, 4, 5)], ids=str)
def test_convolution_of_heads(grid: tuple[int, ...], masked: bool) -> None:
    torch.manual_seed(0)
    n = torch.Size(grid).numel()
    conv = HeadConv(3, 3, dims=len(grid), dtype=torch.float64)
    v = torch.randn(2, 3, n + 1, 4, dtype=torch.float64)
    mask = torch.rand(2, 1, n + 1, 1) < 0.6 if masked else None
    real = v if mask is None else v.masked_fill(~mask, 0)
    got = conv(v if mask is None else v.masked_fill(~mask, float("nan")), grid, mask)
    assert (got[:, :, 0] == 0).all(), "a class token has no neighbors"
    positions = list(itertools.product(*map(range, grid)))
    for number in (0, n // 2, n - 1):
        want = torch.zeros(2, 3, 4, dtype=torch.float64)
        for shift in itertools.product(range(3), repeat=len(grid)):
            near = tuple(p + s - 1 for p, s in zip(positions[number], shift, strict=True))
            if near in positions:
                want += conv.weight[:, 0][(slice(None), *shift)].view(1, 3, 1) * real[:, :, 1 + positions.index(near)]
        torch.testing.assert_close(got[:, :, 1 + number], want)


def test_tokens_of_a_sequence_are_adjacent_whatever_padding_is_between_them() -> None:
    torch.manual_seed(0)
    conv = HeadConv(3, 5, dims=1, dtype=torch.float64)
    v = torch.randn(2, 3, 11, 4, dtype=torch.float64)
    mask = torch.ones(2, 1, 11, 1, dtype=torch.bool)
    mask[0, :, [0, 4, 5]], mask[1, :, [2, 10]] = False, False
    got = conv(v.masked_fill(~mask, float("nan")), None, mask)
    for sample, real in enumerate(mask[:, 0, :, 0]):
        torch.testing.assert_close(got[sample, :, real], conv(v[sample : sample + 1, :, real], None, None)[0])


def test_a_convolution_needs_its_grid() -> None:
    with pytest.raises(UserError, match="pass the grid to the attention"):
        HeadConv(3, 3)(torch.randn(1, 3, 8, 4), None, None)
    with pytest.raises(UserError, match="expected an odd side"):
        HeadConv(3, 4)
