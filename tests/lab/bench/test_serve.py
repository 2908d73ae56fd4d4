"""The server benchmark: what its clients see of a real server, and its table."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from softfree_lab.bench.options import ServeBenchOptions
from softfree_lab.bench.serve import bench_serve
from softfree_lab.bench.serve_files import bad_files, write_images
from softfree_lab.bench.serve_load import Load
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import read_image


def test_load() -> None:
    load = Load(10.0, [0.1] * 99 + [1.0], [number / 10 for number in range(100)], memory=[5, *[10] * 8, 12])
    assert load.rate == 10
    assert load.percentile(50) == pytest.approx(0.1)
    assert load.rate_within(0.5, 1.0) == 10
    assert load.growth() == pytest.approx(0.2)


def test_bad_files_are_bad(tmp_path: Path) -> None:
    (good,) = write_images(tmp_path, 1, 128)
    assert read_image(good).pixels.shape == (128, 128, 1)
    for name, content in bad_files(good.read_bytes()).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ReadError):
            read_image(tmp_path / name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_bench(tmp_path: Path) -> None:
    options = ServeBenchOptions(
        tests=["throughput", "kills", "soak"], model="nano_patch16", size=64, files=6, clients=2, seconds=1.5, kills=2,
        soak=2.0, workers=1, out=tmp_path,
    )  # fmt: skip
    text = bench_serve(options, log=lambda line: None)
    rows = pd.read_csv(tmp_path / "serve.csv").set_index("quantity")
    for quantity in ("requests lost or answered twice", "samples without an answer", "samples answered twice",
                     "status 500 and above", "answers that are wrong", "files left in the spool"):  # fmt: skip
        assert rows.loc[quantity, "value"] == 0, quantity
    assert rows.loc["ratio", "value"] > 0
    assert "| kills | servers killed |" in text
    assert (tmp_path / "serve.json").is_file()
