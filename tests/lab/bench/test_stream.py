"""The clock around a streamed image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from softfree_lab.bench.stream import NoiseRows, time_stream
from softfree_runtime.core.errors import UserError


def test_noise_is_the_same_whatever_the_bands() -> None:
    rows = NoiseRows(600)
    whole = rows.read(0, 600)
    assert whole.shape == rows.shape
    assert abs(whole.mean()) < 0.05
    assert abs(whole.std() - 1) < 0.05
    assert torch.equal(torch.cat([rows.read(0, 250), rows.read(250, 600)], 1), whole)


@pytest.mark.parametrize("training", [False, True])
def test_numbers_of_a_small_image(training: bool, tmp_path: Path) -> None:
    row = time_stream(130, "seqnorm_vit_nano_patch16", training, tmp_path, torch.bfloat16, 32, "bf16")
    assert row["tokens"] == 81
    assert row["seconds"] > row["product_seconds"] > 0
    assert row["tokens_per_second"] == row["tokens"] / row["seconds"]


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match="precision"):
        time_stream(32, precision="8")
    with pytest.raises(UserError, match="SoftmaxAttention"):
        time_stream(32, "softmax_vit_nano_patch16")
