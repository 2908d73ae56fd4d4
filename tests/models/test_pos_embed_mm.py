"""Codes of places in millimeters."""

from __future__ import annotations

import math

import pytest
import torch

from softfree.models.pos_embed_mm import IN_BODY, resize_volume_positions, sincos_codes, volume_codes

LIKE = torch.zeros(0, dtype=torch.float64)


def test_formula() -> None:
    """Two axes, width 9: two wavelengths each, one feature left over."""
    codes = sincos_codes(torch.tensor([[3.0, -0.5]], dtype=torch.float64), 9, [(2.0, 50.0), (1.0, 4.0)])[0].tolist()
    turns = [3 / 2, 3 / 50, -0.5 / 1, -0.5 / 4]
    sines, cosines = ([f(2 * math.pi * turn) for turn in turns] for f in (math.sin, math.cos))
    assert codes == pytest.approx([*sines[:2], *cosines[:2], *sines[2:], *cosines[2:], 0])


def test_a_token_has_the_code_of_its_center() -> None:
    codes = volume_codes((2, 3, 4), (5.0, 6.0, 7.0), 32, LIKE)
    assert codes.shape == (1, 24, 32)
    center = torch.tensor([1.5 * 5, 2.5 * 6, 0.5 * 7], dtype=torch.float64)  # second layer, third row, first column
    torch.testing.assert_close(codes[0, 12 + 2 * 4], sincos_codes(center, 32, [IN_BODY] * 3))
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
def test_resizing_keeps_place(new: tuple[int, int, int]) -> None:
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


def test_resizing_compiled_for_any_grid() -> None:
    """Values and gradients, at a size that the graph was not made for, too."""
    torch._dynamo.reset()
    old = (2, 3, 4)

    def add(volume: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return volume.flatten(1, 3) + resize_volume_positions(codes, old, volume.shape[1:4], 1)[:, 1:]

    compiled = torch.compile(add, backend="aot_eager", fullgraph=True)
    for grid in (old, (3, 4, 5), (1, 7, 2), (6, 6, 6)):
        volume, codes = torch.randn(2, *grid, 6), torch.randn(1, 1 + 24, 6, requires_grad=True)
        got, want = compiled(volume, codes), add(volume, codes)
        torch.testing.assert_close(got, want, atol=5e-6, rtol=0)
        weights = torch.randn_like(got)
        slopes = [torch.autograd.grad((y * weights).sum(), codes)[0] for y in (got, want)]
        torch.testing.assert_close(*slopes, atol=5e-5, rtol=0)
