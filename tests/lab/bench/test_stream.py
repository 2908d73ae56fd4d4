"""Timing of streamed images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from softfree_lab.bench.options import StreamBenchOptions
from softfree_lab.bench.stream import NoiseRows, bench_stream, time_stream
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
    assert min(row["seconds"], row["product_seconds"]) > 0
    assert row["tokens_per_second"] == row["tokens"] / row["seconds"]


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match="precision"):
        time_stream(32, precision="8")
    with pytest.raises(UserError, match="SoftmaxAttention"):
        time_stream(32, "softmax_vit_nano_patch16")


@pytest.mark.parametrize(("training", "sides"), [(False, [64, 32]), (True, [32])])
def test_a_side_in_memory_and_as_a_stream(tmp_path: Path, training: bool, sides: list[int]) -> None:
    options = StreamBenchOptions(
        sides=sides,
        whole=32,
        model="seqnorm_vit_nano_patch16",
        training=training,
        token_store=tmp_path / "tokens",
        token_chunk=4,
        threads=1,
        out=tmp_path,
    )
    lines: list[str] = []
    text = bench_stream(options, lines.append)
    assert lines == ["in memory, 32 x 32", "stream, 32 x 32", "stream, 64 x 64"][: 1 + len(sides)]
    name = f"stream_{'training' if training else 'inference'}"
    rows = pd.read_csv(tmp_path / f"{name}.csv")
    assert rows["tokens"].tolist() == [4, 4, 16][: 1 + len(sides)]
    assert (rows["seconds"] > 0).all()
    assert (tmp_path / f"{name}.md").read_text() == text
    assert str(tmp_path) not in (tmp_path / f"{name}.json").read_text()
