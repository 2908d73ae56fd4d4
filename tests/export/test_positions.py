"""Positions resized in the graph are those of the model."""

import pytest
import torch

from softfree.export.positions import resize_positions
from softfree.models.positions import resize_positions as expected


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
def test_equals_the_models(old: tuple[int, int], new: tuple[int, int], prefix: int) -> None:
    codes = torch.randn(1, prefix + old[0] * old[1], 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        resize_positions(codes, old, *new, prefix), expected(codes, old, new, prefix), atol=5e-6, rtol=0
    )


def test_an_equal_grid_changes_nothing() -> None:
    codes = torch.randn(1, 1 + 6 * 7, 4)
    assert torch.equal(resize_positions(codes, (6, 7), 6, 7, 1), codes)
