"""Nearest cases: built once, of the same model, without the image itself."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softfree.archive.tasks.features import PooledFeatures
from softfree.cli.main import main
from softfree.embeddings.feature_folder import FeatureFolder
from softfree.embeddings.index_folder import open_index
from softfree.embeddings.similar import find_similar
from softfree.embeddings.similar_command import task_of
from softfree.embeddings.similar_output import print_answers, write_answers, write_similar_page
from softfree_runtime.core.errors import UserError

FILES = [f"/archive/{number}.png" for number in range(20)]


def on_a_circle(count: int = 20) -> np.ndarray:
    """Return vectors at equal angles over a half circle, of different lengths."""
    angles = np.linspace(0, np.pi, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, count + 1)[:, None]


def queries(folder: FeatureFolder, numbers: list[int]):
    """Return rows and samples of images of the archive itself."""
    rows = pq.read_table(folder.results).take(numbers)
    return rows, [(FILES[number], FILES[number], None) for number in numbers]


def test_the_image_itself_is_left_out_and_failed_ones_are_not_found(write: Callable, tmp_path: Path) -> None:
    labels = [f"label{number}" for number in range(20)]
    folder = write(tmp_path / "f", on_a_circle(), FILES, failed=[6], label=labels, patient=list(range(20)))
    index = open_index(folder, shown=False)
    assert (len(index), index.kind) == (19, "exact")
    answer, failed = find_similar(index, *queries(folder, [5, 6]), 3)
    assert [one.path for one in answer.neighbors] == ["4.png", "7.png", "3.png"] or [
        one.path for one in answer.neighbors
    ] == ["4.png", "3.png", "7.png"]
    np.testing.assert_allclose(answer.neighbors[0].distance, 1 - np.cos(np.pi / 19), atol=1e-6)
    assert answer.neighbors[0].values == {"label": "label4"}  # no patient
    assert (failed.status, failed.neighbors) == ("corrupt", [])
    (answer,) = find_similar(index, *queries(folder, [5]), 1, ["patient"])
    assert answer.neighbors[0].values == {"label": "label4", "patient": 4}


def test_an_index_is_built_once_and_anew_for_other_features(write: Callable, tmp_path: Path) -> None:
    folder = write(tmp_path / "f", on_a_circle(), FILES)
    open_index(folder, shown=False)
    written = (folder.root / "index" / "vectors.npy").stat().st_mtime_ns
    open_index(folder, shown=False)
    assert (folder.root / "index" / "vectors.npy").stat().st_mtime_ns == written
    graph = open_index(folder, "approximate", shown=False)
    assert graph.kind == "approximate"
    assert not (folder.root / "index" / "vectors.npy").exists()
    assert graph.search(on_a_circle()[:1], 2).rows.tolist() == [[0, 1]]
    assert open_index(folder, shown=False).kind == "approximate"  # auto takes what there is
    with (folder.root / "index" / "graph.usearch").open("r+b") as file:
        file.truncate(300)
    assert len(open_index(folder, shown=False)) == 20
    folder = write(tmp_path / "f", on_a_circle(10), FILES[:10])
    assert len(open_index(folder, shown=False)) == 10


def test_what_is_no_folder_of_features_is_refused(write: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        FeatureFolder.open(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no archive\.json"):
        FeatureFolder.open(tmp_path / "empty")
    folder = write(tmp_path / "f", on_a_circle(), FILES)
    index = open_index(folder, shown=False)
    with pytest.raises(UserError, match="features of length 3, and the index has 2"):
        index.search(np.ones((1, 3)), 1)
    with pytest.raises(UserError, match=r"--columns age: .* has no such column; it has path, status, reason"):
        find_similar(index, *queries(folder, [1]), 1, ["age"])
    with pytest.raises(UserError, match="expected 1 or more"):
        find_similar(index, *queries(folder, [1]), 0)
    folder.results.unlink()
    with pytest.raises(UserError, match="not finished"):
        FeatureFolder.open(folder.root)
    all_failed = write(tmp_path / "g", on_a_circle(2), FILES[:2], failed=[0, 1])
    with pytest.raises(UserError, match="no image has features"):
        open_index(all_failed, shown=False)


def test_the_command_from_images_to_a_page(
    image_run, write: Callable, small_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = sorted(map(str, small_table.parent.glob("*.png")))[:8]
    task = PooledFeatures(str(image_run.folder), "image")
    rows = task.open(tmp_path)([(file, file, None) for file in files], range(8))
    vectors = np.array(rows["features"].to_pylist())
    digest = task.identity()["model_digest"]
    folder = write(tmp_path / "f", vectors, files, model=digest, label=["<b>"] * 8, patient=list(range(8)))

    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    outputs = ["--csv", str(tmp_path / "n.csv"), "--html", str(tmp_path / "n.html")]
    command = ["similar", str(image_run.folder), files[2], str(damaged), "--index", str(folder.root), "--count", "3"]
    assert main([*command, *outputs, "--show-images", "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(units @ units[2]), kind="stable")
    expected = [Path(files[number]).name for number in order if number != 2][:3]
    assert [one["path"] for one in first["neighbors"]] == expected
    assert set(first["neighbors"][0]) == {"rank", "distance", "path", "label"}
    assert (second["status"], second["neighbors"]) == ("corrupt", [])
    assert len((tmp_path / "n.csv").read_text().splitlines()) == 5
    page = (tmp_path / "n.html").read_text()
    assert page.count("<img") == 4
    assert "&lt;b&gt;" in page

    other = write(tmp_path / "other", vectors, files, model="0" * 64)
    with pytest.raises(UserError, match="distances between two models mean nothing"):
        task_of(str(image_run.folder), other)
    assert main(["similar", str(image_run.folder), "--index", str(folder.root)]) == 2
    assert "--build to build the index only" in capsys.readouterr().err


def test_frames_are_named_and_shown(write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = str(tmp_path / "s.tif")
    first, *others = (Image.fromarray(np.full((8, 8), gray, np.uint8)) for gray in (0, 120, 250))
    first.save(file, save_all=True, append_images=others)
    folder = write(tmp_path / "f", on_a_circle(3), [file] * 3, frames=[0, 1, 2], label=["a", "b", "c"])
    index = open_index(folder, shown=False)
    rows = pq.read_table(folder.results).take([2])
    answers = find_similar(index, rows, [("s.tif", file, 2)], 1)
    assert answers[0].to_dict() | {"neighbors": []} == {
        "path": "s.tif", "frame": 2, "status": "ok", "reason": "", "neighbors": [],
    }  # fmt: skip
    (found,) = answers[0].to_dict()["neighbors"]
    assert found == {"rank": 1, "distance": 1.0, "path": "s.tif", "frame": 1, "label": "b"}
    write_answers(tmp_path / "o.csv", answers)
    assert (tmp_path / "o.csv").read_text().splitlines() == [
        "query,query_frame,status,reason,rank,distance,path,frame,label",
        "s.tif,2,ok,,1,1.0,s.tif,1,b",
    ]
    write_similar_page(tmp_path / "o.html", answers, images=True)
    page = (tmp_path / "o.html").read_text()
    pngs = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert [np.unique(Image.open(io.BytesIO(base64.b64decode(png)))).tolist() for png in pngs] == [[250], [120]]
    assert "<h2>s.tif, frame 2</h2>" in page
    assert '<span class="how">s.tif, frame 1</span>' in page
    print_answers(answers)
    assert "Nearest to s.tif, frame 2" in capsys.readouterr().out


def test_columns_of_the_inputs_never_replace_those_of_the_answer(write: Callable, tmp_path: Path) -> None:
    columns = {"rank": ["high"] * 20, "distance": list(range(100, 120)), "age": list(range(20))}
    folder = write(tmp_path / "f", on_a_circle(), FILES, **columns)
    asked = ["distance", "rank", "age", "status"]
    answers = find_similar(open_index(folder, shown=False), *queries(folder, [0]), 1, asked)
    assert answers[0].to_dict()["neighbors"] == [
        {"rank": 1, "distance": round(1 - np.cos(np.pi / 19), 6), "path": "1.png", "inputs.distance": 101,
         "inputs.rank": "high", "age": 1, "inputs.status": "ok"}
    ]  # fmt: skip
    write_answers(tmp_path / "o.csv", answers)
    header = (tmp_path / "o.csv").read_text().splitlines()[0]
    assert header == "query,status,reason,rank,distance,path,inputs.distance,inputs.rank,age,inputs.status"
