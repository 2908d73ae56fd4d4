"""Small slides with tissue, and a table of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile


def write_slide(path: Path, seed: int = 0, mpp: float | None = 8.0) -> None:
    """Write 1.5 x 1 mm of stained noise beside glass."""
    pixels = np.random.default_rng(seed).integers(0, 120, (128, 192, 3), dtype=np.uint8)
    pixels[..., 1] //= 3
    pixels[:, 128:] = 244
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = {} if mpp is None else {"resolution": (10_000 / mpp, 10_000 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="zlib", photometric="rgb", **scale)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A table of four slides, one of them in a folder."""
    names = ["a.tiff", "b.tiff", "deep/a.tiff", "c.tiff"]
    for seed, name in enumerate(names):
        write_slide(tmp_path / name, seed)
    table = tmp_path / "slides.csv"
    rows = {"path": names, "label": ["x", "y", "x", "y"], "patient_id": ["007", "008", "007", "009"]}
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


@pytest.fixture
def make_slide() -> Callable[..., None]:
    return write_slide
