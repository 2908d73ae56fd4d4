from pathlib import Path

import pandas as pd
import pytest

from softfree_lab.bench.options import StreamBenchOptions
from softfree_lab.bench.streams import bench_stream


@pytest.mark.parametrize("training", [False, True])
def test_a_side_in_memory_and_as_a_stream(tmp_path: Path, training: bool) -> None:
    options = StreamBenchOptions(
        sides=[64, 32],
        whole=32,
        model="seqnorm_vit_nano_patch16",
        training=training,
        token_store=tmp_path / "tokens",
        token_chunk=4,
        threads=1,
        out=tmp_path,
    )
    told: list[str] = []
    text = bench_stream(options, told.append)
    assert told == ["in memory, 32 x 32", "stream, 32 x 32", "stream, 64 x 64"]
    name = f"stream_{'training' if training else 'inference'}"
    rows = pd.read_csv(tmp_path / f"{name}.csv")
    assert rows["tokens"].tolist() == [4, 4, 16]
    assert (rows["seconds"] > 0).all()
    assert (tmp_path / f"{name}.md").read_text() == text
    assert str(tmp_path) not in (tmp_path / f"{name}.json").read_text()
