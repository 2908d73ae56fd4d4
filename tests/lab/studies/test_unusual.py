"""The study of unusual images: its sets, and that its distances are those of a prediction."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.inference.run import Run
from softfree_lab.studies.options import UnusualOptions
from softfree_lab.studies.unusual import TOKENS, study_unusual
from softfree_runtime.core.errors import UserError


def test_each_set_has_its_share(run: Run, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(others / f"{number}.png")
    (others / "5.png").write_text("no image")
    options = UnusualOptions(sets=[f"noise={others}"], count=7, out=tmp_path / "out", batch_size=3, progress=False)
    study = study_unusual(options, run.folder)
    own = study.rows[study.rows["description"] == TOKENS].set_index("set")
    assert own["n"].to_dict() == {
        "held-out images": 7, "black and white exchanged": 7, "a quarter turn": 7, "upside down": 7,
        "blank": 7, "blank with noise": 7, "noise": 5,
    }  # fmt: skip
    rows = run.predict(others)
    assert own.loc["noise", "distance"] == pytest.approx(rows["distance"].median(), rel=1e-4)
    assert own.loc["noise", "unusual"] == rows["unusual"].dropna().mean() == 1
    stored = pd.read_csv(run.folder / "predictions.csv").query("split == 'test'")
    held = stored["distance"].iloc[[0, 1, 2, 3, 4, 5, 7]]  # seven of eight, evenly
    assert own.loc["held-out images", "distance"] == pytest.approx(held.median(), rel=1e-3)
    assert study.skipped["noise"] == 1
    text = (tmp_path / "out" / "unusual.md").read_text()
    assert text == study.to_markdown()
    assert "1 of noise cannot be read." in text
    assert "| noise | 5 | 1.00 [0.48, 1.00] |" in text
    assert study.coverage is not None
    assert study.coverage.all.n == 8
    assert json.loads(json.dumps(study.to_dict()))["rate"] == 0.2
    assert len(pd.read_csv(tmp_path / "out" / "unusual.csv")) == 21


def test_what_cannot_be_studied(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected NAME=PATH"):
        study_unusual(UnusualOptions(sets=["nothing"], progress=False), run.folder)
    (run.folder / "distribution.safetensors").unlink()
    with pytest.raises(UserError, match="no distribution of its training images"):
        study_unusual(UnusualOptions(progress=False), run.folder)
