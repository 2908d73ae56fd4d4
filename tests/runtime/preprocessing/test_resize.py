"""The numpy resizing is torch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from softfree_runtime.preprocessing.resize import resize


@pytest.mark.parametrize(
    ("old", "new"),
    [((50, 40), (50, 40)), ((50, 41), (17, 90)), ((7, 5), (1, 1)), ((1, 1), (4, 3)), ((976, 300), (645, 128))],
)
def test_equals_torch(old: tuple[int, int], new: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((3, *old), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(pixels)[None], new, mode="bilinear", antialias=True)[0].numpy()
    found = resize(pixels, *new)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
