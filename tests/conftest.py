"""Fixtures for all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real sample images, kept outside the project; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SOFTFREE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "chest_xray" / "manifest.csv").is_file():
        pytest.skip("real sample data not found: set SOFTFREE_TEST_DATA to its folder")
    return folder


@pytest.fixture
def small_table(tmp_path: Path) -> Path:
    """A table of 32 small pictures, two of each patient; class "high" is bright at the top, "low" at the bottom."""
    return write_small_table(tmp_path / "data")


@pytest.fixture(scope="session")
def make_small_table() -> Callable[[Path], Path]:
    """The same for fixtures that live longer than a test."""
    return write_small_table


def write_small_table(folder: Path, count: int = 32, classes: tuple[str, str] = ("low", "high")) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        label = classes[number // 2 % 2]
        pixels = rng.integers(0, 120, (48, 40), dtype=np.uint8)
        pixels[slice(0, 20) if label == classes[1] else slice(28, 48)] += 100
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        split = "train" if number < count // 2 else "val" if number < 3 * count // 4 else "test"
        rows.append((f"{number:02}.png", label, f"patient{number // 2}", split, "AB"[number % 2]))
    table = folder / "table.csv"
    pd.DataFrame(rows, columns=["path", "label", "patient_id", "split", "site"]).to_csv(table, index=False)
    return table
