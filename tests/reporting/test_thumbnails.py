"""Small images of errors."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.data.table import Table, read_table
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.thumbnails import MAX_IMAGES, thumbnail, worst_errors


def opened(png: bytes | None) -> Image.Image:
    assert png is not None
    return Image.open(io.BytesIO(png))


def judged(
    folder: Path, targets: list[str], p: list[list[float]], status: list[str] | None = None
) -> tuple[Run, Table, pd.DataFrame, Scores]:
    """Images whose brightness is 5 times their row, and what a model gave each of them; classes a and b."""
    for row in range(len(targets)):
        Image.new("L", (20, 20), 5 * row).save(folder / f"{row}.png")
    rows = [f"{row}.png,{target}" for row, target in enumerate(targets)]
    (folder / "t.csv").write_text("\n".join(["path,label", *rows]))
    table = read_table(folder / "t.csv", classes=("a", "b"), val_fraction=0, test_fraction=1)
    frame = pd.DataFrame({"row": range(len(targets)), "status": status or "ok"})
    ok = (frame["status"] == "ok").to_numpy()
    scores = Scores(table.task, np.array(p)[ok], table.targets[ok], np.arange(len(p))[ok])
    return Run(folder, {"task": {"kind": table.task.kind, "classes": list(table.task.classes)}}), table, frame, scores


def test_worst_first_and_right_ones_never(tmp_path: Path) -> None:
    p = [[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.01, 0.99], [0.8, 0.2]]
    thumbnails = worst_errors(*judged(tmp_path, ["a", "a", "b", "a", "b"], p))
    assert [one.caption for one in thumbnails] == [
        "row 3: a, probability 0.01",
        "row 4: b, probability 0.20",
        "row 1: a, probability 0.30",
        "row 2: b, probability 0.40",
    ]
    assert [opened(one.png).getpixel((0, 0)) for one in thumbnails] == [15, 20, 5, 10]


def test_unreadable_rows_do_not_shift_the_others(tmp_path: Path) -> None:
    p = [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]
    thumbnails = worst_errors(*judged(tmp_path, ["a", "b", "a"], p, ["corrupt", "ok", "ok"]))
    assert [one.caption for one in thumbnails] == ["row 1: b, probability 0.10", "row 2: a, probability 0.20"]


def test_only_so_many(tmp_path: Path) -> None:
    thumbnails = worst_errors(*judged(tmp_path, ["a", "b"] * 10, [[0.1, 0.9], [0.9, 0.1]] * 10))
    assert len(thumbnails) == MAX_IMAGES


def test_findings_are_judged_by_the_worst_known_one(tmp_path: Path) -> None:
    for row in range(3):
        Image.new("L", (20, 20)).save(tmp_path / f"{row}.png")
    (tmp_path / "t.csv").write_text("path,x,y\n0.png,1,1\n1.png,0,0\n2.png,,1\n")
    table = read_table(tmp_path / "t.csv", labels=["x", "y"], val_fraction=0, test_fraction=1)
    scores = Scores(table.task, np.array([[0.9, 0.3], [0.8, 0.1], [0.0, 0.9]]), table.targets, np.arange(3))
    run = Run(tmp_path, {"task": {"kind": "multilabel", "classes": ["x", "y"]}})
    thumbnails = worst_errors(run, table, pd.DataFrame({"row": range(3), "status": "ok"}), scores)
    assert [one.caption for one in thumbnails] == [
        "row 1: no finding, probability 0.20",
        "row 0: x, y, probability 0.30",
    ]


@pytest.mark.parametrize(("mode", "size"), [("L", (300, 600)), ("RGB", (600, 300)), ("L", (20, 10)), ("L", (2000, 3))])
def test_a_thumbnail_keeps_color_and_shape(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    Image.new(mode, size, "gray").save(tmp_path / "a.png")
    small = opened(thumbnail(str(tmp_path / "a.png"), side=256))
    assert small.format == "PNG"
    assert small.mode == mode
    scale = min(1, 256 / max(size))
    assert small.size == pytest.approx([max(1, side * scale) for side in size], abs=1)
    assert small.convert("L").getextrema() == (128, 128)


def test_the_frame_that_was_asked_for(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 20), value) for value in (10, 200)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    assert opened(thumbnail(str(tmp_path / "two.tif"), 1)).getpixel((5, 5)) == 200
    assert thumbnail(str(tmp_path / "two.tif"), 2) is None


def test_a_file_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    assert thumbnail(str(tmp_path / "a.png")) is None
    assert thumbnail(str(tmp_path / "gone.png")) is None


def test_wrong_is_what_is_called_wrong_at_the_runs_threshold(tmp_path: Path) -> None:
    p = [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    run, *others = judged(tmp_path, ["b", "b", "a"], p)
    run = dataclasses.replace(run, calibration=Calibration(thresholds={"b": 0.35}))
    captions = [one.caption for one in worst_errors(run, *others)]
    assert captions == ["row 2: a, probability 0.20", "row 1: b, probability 0.30"]
    table, frame, scores = others
    own = dataclasses.replace(scores, thresholds={"b": np.array([0.5, 0.25, 0.9])})
    assert [one.caption for one in worst_errors(run, table, frame, own)] == ["row 0: b, probability 0.40"]
