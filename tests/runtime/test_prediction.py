"""A row for every input, written as softfree predict writes them, in a Python that has no torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.inference.predict import outputs
from softfree.inference.run_directory import Calibration
from softfree_runtime import Model, predict
from softfree_runtime.cli import main
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 30 + number), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_text("no image")
    return [str(tmp_path / f"{number}.png") for number in (0, 3, 1, 2)]


def test_rows(model: Path, images: list[str]) -> None:
    opened = Model(model)
    rows = predict(opened, images, batch_size=2)
    assert [row["path"] for row in rows] == images
    assert [row["status"] for row in rows] == ["ok", "unsupported", "ok", "ok"]
    assert rows[1]["p_ill"] is None
    assert rows[1]["predicted"] == ""
    from softfree_runtime.readers import read_image

    for row in rows[2:]:
        logits = opened.logits(opened.metadata.preprocessing(read_image(row["path"]))[None])
        expected = outputs(logits, opened.metadata.task, Calibration(2.0, {"ill": 0.4})).iloc[0]
        assert row["p_ill"] == pytest.approx(expected["p_ill"], abs=1e-6)
        assert row["raw_well"] == pytest.approx(expected["raw_well"], abs=1e-6)
        assert row["predicted"] == expected["predicted"]


def test_sets_and_distances_are_columns(
    make_model: Callable[..., Path], about: Callable[..., Metadata], images: list[str], tmp_path: Path
) -> None:
    sets = ConformalSets(0.9, {"well": 0.5, "ill": 0.4})
    path = make_model(about(sets=sets, unusual_rate=0.05))
    rows = predict(path, images)
    assert list(rows[0])[-4:] == ["set", "abstain", "distance", "unusual"]
    assert list(rows[1].values())[-4:] == ["", None, None, None]
    for row in (rows[0], *rows[2:]):
        names = [name for name, least in sets.present.items() if row[f"p_{name}"] >= least]
        assert json.loads(row["set"]) == names
        assert row["abstain"] == (len(names) != 1)
        assert row["unusual"] == (row["distance"] > 1)
    assert main([str(path), *images, "--out", str(tmp_path / "rows.csv")]) == 1
    written = pd.read_csv(tmp_path / "rows.csv")
    assert written["unusual"].isna().tolist() == [False, True, False, False]
    assert written["set"][0] == rows[0]["set"]


def test_any_name_of_a_file_is_in_its_row(model: Path, images: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "study: Doe"
    folder.mkdir()
    damaged = Path(images[1]).rename(folder / "Doe: Jane.png")
    Path(images[0]).rename(folder / "a: b.png")
    rows = predict(model, folder)
    assert [Path(row["path"]).name for row in rows] == ["Doe: Jane.png", "a: b.png"]
    assert [row["status"] for row in rows] == ["unsupported", "ok"]
    assert rows[0]["reason"].startswith(f"{damaged}: not an image that softfree reads")


def test_arrays_alone_and_in_a_batch(model: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    (alone,) = predict(model, array)
    assert [row["p_ill"] for row in predict(model, [array, array])] == [alone["p_ill"]] * 2
    with pytest.raises(UserError, match="--batch-size 0"):
        predict(model, array, batch_size=0)


def test_another_size_is_a_row(make_model: Callable[..., Path], about: Callable[..., Metadata]) -> None:
    from dataclasses import replace

    native = replace(about().preprocessing, resize_mode="native")
    fixed = make_model(about(size=(8, 8), preprocessing=native))
    rows = predict(fixed, [np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)])
    assert [row["status"] for row in rows] == ["ok", "unsupported"]
    assert "8 x 9 once prepared" in rows[1]["reason"]


def test_numbers_that_are_not_finite_are_a_row(make_model: Callable[..., Path], about: Callable[..., Metadata]) -> None:
    from dataclasses import replace

    half = about(preprocessing=replace(about().preprocessing, mean=(0.0,), std=(1e-39,)), precision="fp16")
    with np.errstate(over="ignore"):
        rows = predict(make_model(half), [np.full((8, 8), gray, np.uint8) for gray in (0, 255)])
    assert [row["status"] for row in rows] == ["ok", "not_finite"]
    assert [row["predicted"] != "" for row in rows] == [True, False]
    assert (rows[1]["p_ill"], rows[1]["raw_well"]) == (None, None)
    assert rows[1]["reason"] == (
        "array 1: the model gave NaN or infinite numbers; use a file exported with --precision fp32"
    )


def test_command(model: Path, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("found.csv")
    assert main([str(model), *images, "--out", str(out), "--json", "--threads", "1"]) == 1
    captured = capsys.readouterr()
    table = pd.read_csv(out).fillna({"reason": "", "predicted": ""})
    assert json.loads(captured.out)[0]["p_ill"] == table["p_ill"][0]
    assert list(table) == ["path", "status", "reason", "p_well", "p_ill", "raw_well", "raw_ill", "predicted"]
    assert "3 of 4 predicted" in captured.err
    assert main([str(model), images[0], "--out", str(out)]) == 0


def test_errors_of_the_command(model: Path, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ([str(model), images[1], "--out", str(model.with_name("o.csv"))], "none of the 1 inputs could be read"),
        ([str(model), images[0], "--out", "o.parquet"], "ends in .csv"),
        ([str(model.with_name("no.onnx")), images[0]], "does not exist"),
        ([str(model)], "inputs"),
    ):
        assert main(arguments) == 2
        text = capsys.readouterr().err.splitlines()
        assert text[-1].startswith("softfree: error: ")
        assert words in text[-1]


def test_without_softfree_torch_pandas_and_scipy(model: Path, images: list[str]) -> None:
    code = (
        "import sys\n"
        "for name in ('softfree', 'torch', 'timm', 'monai', 'pandas', 'scipy', 'onnx', 'jsonargparse', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from softfree_runtime.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = model.with_name("o.csv")
    command = [sys.executable, "-c", code, str(model), images[0], "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
