"""A row for every file, table row or array, good or bad."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.inference.options import PredictOptions
from softfree.inference.predict import outputs, predict, predict_to_file
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import predicted_label
from softfree_runtime.core.task import Task

BINARY = Task("binary", ("well", "ill"))
THREE = Task("multiclass", ("a", "b", "c"))
FINDINGS = Task("multilabel", ("x", "y"))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)


@pytest.mark.parametrize(
    ("task", "row", "thresholds", "label"),
    [
        (BINARY, [0.6, 0.4], {"ill": 0.4}, "ill"),
        (BINARY, [0.6, 0.4], {"ill": 0.41}, "well"),
        (BINARY, [0.5, 0.5], {}, "ill"),
        (THREE, [0.3, 0.3, 0.4], {"a": 0.1, "b": 0.1, "c": 0.9}, "c"),
        (FINDINGS, [0.3, 0.6], {"x": 0.3, "y": 0.6}, "x; y"),
        (FINDINGS, [0.3, 0.6], {}, "y"),
        (FINDINGS, [0.3, 0.4], {}, ""),
    ],
)
def test_called(task: Task, row: list[float], thresholds: dict[str, float], label: str) -> None:
    assert predicted_label(np.array(row), task, thresholds) == label


def test_outputs_are_calibrated_beside_raw_and_empty_without_logits() -> None:
    logits = np.array([[0, 2 * np.log(9)], [np.nan, np.nan]])
    result = outputs(logits, BINARY, Calibration(2.0, {"ill": 0.95}))
    assert list(result) == ["p_well", "p_ill", "raw_well", "raw_ill", "predicted"]
    assert list(result.iloc[0]) == pytest.approx([0.1, 0.9, 1 / 82, 81 / 82, "well"])
    assert result.loc[1, "predicted"] == ""
    assert result.drop(columns="predicted").loc[1].isna().all()


def test_sets_are_columns_that_any_program_reads(tmp_path: Path) -> None:
    odd = Task("multiclass", ("a; b", 'c "d", e', "ü"))
    sets = ConformalSets(0.9, dict(zip(odd.classes, (0.3, 0.3, 0.5), strict=True)))
    logits = np.log([[0.35, 0.6, 0.05], [0.05, 0.05, 0.9], [0.25, 0.29, 0.46], [np.nan] * 3])
    result = outputs(logits, odd, Calibration(sets=sets))
    assert list(result)[-3:] == ["predicted", "set", "abstain"]
    result.to_csv(tmp_path / "rows.csv", index=False)
    written = pd.read_csv(tmp_path / "rows.csv")
    assert [json.loads(text) for text in written["set"][:3]] == [["a; b", 'c "d", e'], ["ü"], []]
    assert written["abstain"].tolist()[:3] == [True, False, True]
    assert written.loc[3, ["set", "abstain"]].isna().all()
    assert json.loads(result.to_json(orient="records"))[3]["abstain"] is None


def test_inputs_of_all_kinds_keep_their_order(run: Run, noise: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("b.png", "sub/a.png", ".hidden/c.png", ".d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / name)
    (folder / "t.csv").write_text("path\nsub/a.png\ngone.png\n")
    rows = run.predict([noise, folder, str(folder / "t.csv"), folder / "b.png"], batch_size=2)
    expected = ["array 0", str(folder / "b.png"), str(folder / "sub" / "a.png"), "sub/a.png", "gone.png"]
    assert rows["path"].tolist() == [*expected, str(folder / "b.png")]
    assert rows["status"].tolist() == ["ok", "ok", "ok", "ok", "missing", "ok"]
    np.testing.assert_allclose(rows["p_low"].dropna(), rows["p_low"][0], atol=1e-6)
    assert "gone.png: no such file" in rows["reason"][4]
    assert rows["predicted"][4] == rows["set"][4] == ""
    assert rows["abstain"].isna().tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.float64])
def test_arrays_of_any_kind_are_the_same_image(run: Run, noise: np.ndarray, kind: type) -> None:
    white = 1 if kind is not np.uint16 else 65535
    noise[0, :2] = 0, 255  # the range of other kinds is their own
    other: np.ndarray = (noise.astype(np.float64) / 255 * white).round(0 if white > 1 else 9).astype(kind)
    rows = predict(run, [noise, other, np.repeat(other[..., None], 3, 2), noise[::-1][::-1]])
    np.testing.assert_allclose(rows["p_low"], rows["p_low"][0], atol=1e-5)
    assert predict(run, other[::-1])["p_low"][0] != pytest.approx(rows["p_low"][0], abs=1e-6)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((8, 8), np.complex64), "expected whole numbers"),
        (np.full((8, 8), np.nan), "finite"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros((0, 8), np.uint8), r"shape \(0, 8\)"),
        (np.zeros(8, np.uint8), r"shape \(8,\)"),
    ],
)
def test_arrays_that_are_no_image(run: Run, array: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        predict(run, array)


def test_frames(run: Run, tmp_path: Path) -> None:
    pages = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (32, 32), dtype=np.uint8)) for n in range(2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "t.csv").write_text("path,frame\ntwo.tif,1\ntwo.tif,\n")
    two = tmp_path / "two.tif"
    p = {frame: predict(run, two, frame=frame)["p_low"][0] for frame in (None, 0, 1)}
    assert p[None] == p[0] != p[1]
    assert predict(run, tmp_path / "t.csv")["p_low"].tolist() == pytest.approx([p[1], p[0]])
    assert predict(run, two, frame=2)["status"].tolist() == ["unsupported"]


def test_nothing_to_predict(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sample given"):
        predict(run, [tmp_path])
    (tmp_path / "t.csv").write_text("file\na.png\n")
    with pytest.raises(UserError, match="path"):
        predict(run, tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["new/p.csv", "p.parquet"])
def test_the_file_and_the_status_of_the_command(
    run: Run, noise: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Image.fromarray(noise).save(tmp_path / "a.png")
    good, bad, chosen = str(tmp_path / "a.png"), str(tmp_path / "gone.png"), PredictOptions(out=tmp_path / name)
    assert predict_to_file(run, [good], PredictOptions(out=tmp_path / name, progress=False)) == 0
    assert predict_to_file(run, [good, bad], chosen, as_json=True) == 1
    printed = capsys.readouterr()
    written = pd.read_csv(chosen.out) if name.endswith("csv") else pd.read_parquet(chosen.out)
    shown = json.loads(printed.out)
    assert [row["status"] for row in shown] == written["status"].tolist() == ["ok", "missing"]
    assert shown[0]["p_low"] == pytest.approx(written["p_low"][0])
    assert shown[1]["p_low"] is None
    assert "1 of 2 predicted" in printed.err
    with pytest.raises(UserError, match="none of the 1 inputs could be read"):
        predict_to_file(run, [bad], chosen)
    assert len(pd.read_csv(chosen.out) if name.endswith("csv") else pd.read_parquet(chosen.out)) == 1


@pytest.mark.parametrize(("row", "words"), [("a.png,x", "frame 'x' in line 2"), (",1", "no path in line 2")])
def test_tables_with_wrong_cells(run: Run, tmp_path: Path, row: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(f"path,frame\n{row}\n")
    with pytest.raises(UserError, match=words):
        predict(run, tmp_path / "t.csv")


def test_names_that_are_not_utf8_and_pipes_are_rows(run: Run, noise: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        Image.fromarray(noise).save(file, "PNG")
    with open(os.fsencode(folder) + b"/gar\xe7on.png", "wb") as file:
        file.write(b"no image")
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere")
    for name in ("p.csv", "p.parquet"):
        assert predict_to_file(run, [str(folder)], PredictOptions(out=tmp_path / name, progress=False)) == 1
    rows = pd.read_csv(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(rows[["path", "status"]], pd.read_parquet(tmp_path / "p.parquet")[["path", "status"]])
    names = ("caf\\xe9.png", "gar\\xe7on.png", "gone.png", "pipe.png")
    assert rows["path"].tolist() == [f"{folder}/{name}" for name in names]
    assert rows["status"].tolist() == ["ok", "unsupported", "missing", "missing"]
    assert "gar\\xe7on.png" in rows["reason"][1]


def test_bytes_in_the_other_order_are_the_same_image(run: Run) -> None:
    array = np.random.default_rng(0).integers(0, 60_000, (40, 40), dtype=np.uint16)
    rows = predict(run, [array, array.astype(">u2")])
    assert rows["p_low"][0] == pytest.approx(rows["p_low"][1], abs=1e-6)
