from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.models.registry import build_model
from softfree_lab.cli import main
from softfree_lab.studies.attention_maps import compute_row
from softfree_lab.studies.options import AttentionMapOptions
from softfree_runtime.core.errors import UserError


def make_run(folder: Path, attention: str, **attention_options: Any) -> Path:
    """A run directory with fresh weights."""
    model = {
        "name": f"{attention}_vit_nano_patch16", "num_classes": 2, "img_size": 64, "in_chans": 1, "depth": 2,
        "attention_options": attention_options,
    }  # fmt: skip
    preprocessing = ImagePreprocessing.create("radiograph", 64, "stretch").to_dict()
    task = {"kind": "binary", "classes": ["low", "high"]}
    config = {"task": task, "preprocessing": preprocessing, "model": model, "options": {}}
    folder.mkdir()
    RunDirectory(folder).write_config(config)
    save_file(build_model(config).state_dict(), folder / "model.safetensors")
    return folder


def test_softmax_weights_are_an_average(small_table: Path, tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path / "run", "softmax"))
    row = compute_row(run, small_table.parent / "00.png", AttentionMapOptions(at=[0.9, 0.1], layer=0))
    assert row.weights.shape == (4, 4)
    assert row.position == (0, 3)
    assert row.weights.mean() == pytest.approx(1)
    assert (row.weights > 0).all()


def test_side_by_side(small_table: Path, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "softmax"),
        make_run(tmp_path / "b", "seqnorm", normalized="qk"),
        make_run(tmp_path / "c", "soft"),
    ]
    out = tmp_path / "maps.png"
    image = str(small_table.parent / "00.png")
    assert main(["study", "attention-maps", image, *map(str, runs), "--out", str(out)]) == 0
    assert out.stat().st_size > 10_000
    row = compute_row(Run.load(runs[1]), image, AttentionMapOptions())
    assert row.name == "seqnorm, normalized=qk"
    assert np.isfinite(row.weights).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"at": [0.5]}, "two fractions"), ({"at": [0.5, 1.0]}, "two fractions"), ({"layer": 2}, "has 2 layers")],
)
def test_outside(small_table: Path, tmp_path: Path, capsys, changes: dict[str, Any], message: str) -> None:
    run = make_run(tmp_path / "run", "softmax")
    arguments = [f"--{name}={value}" for name, value in changes.items()]
    assert main(["study", "attention-maps", str(small_table.parent / "00.png"), str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_image(small_table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table\.csv"):
        compute_row(Run.load(make_run(tmp_path / "run", "softmax")), small_table, AttentionMapOptions())
