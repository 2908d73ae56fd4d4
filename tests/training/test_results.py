"""What a forward pass costs."""

from __future__ import annotations

from torch import nn

from softfree.training.results import multiply_adds


def test_products_and_convolutions_are_counted_on_a_model_that_stays_where_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Flatten(2), nn.Linear(256, 5))
    assert multiply_adds(model, (2, 3, 64, 64)) == 2 * (16 * 16 * 8 * 3 * 4 * 4 + 8 * 256 * 5)
    assert next(model.parameters()).device.type == "cpu"
    assert model.training
