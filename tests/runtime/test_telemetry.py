"""Predictions from an exported file leave nothing in the home folder and call nobody."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.watching import watch


@pytest.mark.parametrize("program", [["-m", "softfree", "predict"], ["-m", "softfree_runtime.cli"]])
def test_predict(tmp_path: Path, model: Path, program: list[str]) -> None:
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / "a.png")
    result = watch(
        [str(model), str(tmp_path / "a.png"), "--out", str(tmp_path / "p.csv")], tmp_path / "watched", program
    )
    assert result.status == 0, result.said
    assert result.home == []
    assert result.calls == []
