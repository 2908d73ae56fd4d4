"""``softfree features``: whole, stopped, in shards, and with slides that fail."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from tests.processes import fork, needs_fork

from softfree.archive.slides import extract_features
from softfree.cli.commands import COMMANDS
from softfree.cli.main import main
from softfree.cli.parser import Parser
from softfree.data.modalities.bag import BagPreprocessing
from softfree.data.modalities.feature_files import read_features, write_features
from softfree.data.table import read_table
from softfree.features.extract import SlideRow
from softfree.features.options import FeatureOptions
from softfree_runtime.core.errors import UserError


def run(table: Path, out: Path, **options: object) -> int:
    given = {"encoder": "pixels", "side": 32, "mpp": 8.0, "progress": False, "workers": 0} | options
    return extract_features(table, FeatureOptions(out=out, **given))  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, np.ndarray]:
    """All feature files of a folder, their positions and features together."""
    results = {}
    for path in sorted(folder.rglob("*.h5")):
        tiles = read_features(path)
        assert tiles.coords_mm is not None
        results[str(path.relative_to(folder))] = np.concatenate([tiles.features, tiles.coords_mm], axis=1)
    return results


def assert_equal(one: Path, two: Path) -> None:
    first, second = files(one), files(two)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert (one / "table.csv").read_text() == (two / "table.csv").read_text()


def test_a_table_of_slides_becomes_a_table_of_features(slides: Path, tmp_path: Path) -> None:
    assert run(slides, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv", dtype=str)
    assert table["path"].tolist() == ["a.tiff.h5", "b.tiff.h5", "deep/a.tiff.h5", "c.tiff.h5"]
    assert table["patient_id"].tolist() == ["007", "008", "007", "009"]  # as they were, zeros and all
    result = read_features(tmp_path / "out" / "deep" / "a.tiff.h5")
    assert result.features.shape == (16, 54)  # 4 x 4 of tissue, none of the 2 x 4 of glass
    assert result.encoder == "pixels"
    assert not (tmp_path / "out" / "failed.csv").exists()
    frame = read_table(tmp_path / "out" / "table.csv", test_fraction=1, val_fraction=0).frame
    steps = BagPreprocessing.create(frame["file"].tolist())
    assert steps.load(frame["file"][2]).shape == (16, 57)


@pytest.mark.parametrize("mpp", [16, 32])
def test_real_slides(shared_data: Path, tmp_path: Path, mpp: float) -> None:
    names = ["CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.tiff", "cptac-brca_15BR001_level.dcm"]
    (tmp_path / "t.csv").write_text("path\n" + "\n".join(names) + "\n")
    assert run(tmp_path / "t.csv", tmp_path / "out", image_root=shared_data / "wsi", mpp=mpp, side=16) == 0
    svs, tiff, dicom = (read_features(tmp_path / "out" / f"{name}.h5") for name in names)
    assert len(dicom.features) > 200
    pairs = {tuple(position): row for position, row in zip(svs.coords_mm.round(6), svs.features, strict=True)}
    both = [
        (pairs[tuple(position)], row)
        for position, row in zip(tiff.coords_mm.round(6), tiff.features, strict=True)
        if tuple(position) in pairs
    ]
    assert len(both) > 0.9 * len(svs.features)
    assert np.abs(np.array([one - two for one, two in both])).mean() < 0.01  # two JPEG codings of one slide


def _extract_until_killed(table: Path, out: Path) -> None:
    """Extract, and be killed by the system when half of the third file is written."""
    write, calls = Path.write_bytes, []

    def stop(path: Path, content: bytes) -> int:
        calls.extend([path] if "part.h5" in path.name else [])
        if len(calls) == 3:
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content)

    Path.write_bytes = stop  # type: ignore[assignment,method-assign]
    options = ["--encoder", "pixels", "--side", "32", "--mpp", "8", "--workers", "0", "--progress", "false"]
    main(["features", str(table), "--out", str(out), *options])


@needs_fork
def test_a_run_that_was_killed_goes_on(slides: Path, tmp_path: Path) -> None:
    assert run(slides, tmp_path / "whole") == 0
    out = tmp_path / "out"
    stopped = fork(_extract_until_killed, slides, out)
    stopped.join(300)
    assert stopped.exitcode == -signal.SIGKILL
    assert {path.name for path in out.rglob("[!.]*.h5")} == {"a.tiff.h5", "b.tiff.h5"}
    assert len(list(out.rglob(".*.part.h5"))) == 1
    before = {path: path.stat().st_mtime_ns for path in (out / "a.tiff.h5", out / "b.tiff.h5")}
    assert run(slides, out) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not made again
    assert not list(out.rglob(".*.part*"))
    assert_equal(out, tmp_path / "whole")


def test_shards_together_are_one_run(slides: Path, tmp_path: Path) -> None:
    assert run(slides, tmp_path / "whole") == 0
    assert run(slides, tmp_path / "out", shard="1/2") == 0
    assert files(tmp_path / "out").keys() == {"b.tiff.h5", "c.tiff.h5"}
    assert pd.read_csv(tmp_path / "out" / "table.csv")["label"].tolist() == ["y", "y"]
    assert run(slides, tmp_path / "out", shard="0/2") == 0
    assert_equal(tmp_path / "out", tmp_path / "whole")


def test_slides_that_fail_are_listed_with_reasons(
    slides: Path, tmp_path: Path, make_slide: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "b.tiff").write_bytes((tmp_path / "b.tiff").read_bytes()[:2000])
    make_slide(tmp_path / "c.tiff", mpp=None)
    out = tmp_path / "out"
    assert run(slides, out) == 1
    failed = pd.read_csv(out / "failed.csv")
    assert failed["path"].tolist() == ["b.tiff", "c.tiff"]
    assert failed["status"].tolist() == ["corrupt", "no_resolution"]
    assert "column mpp" in failed["reason"][1]
    stderr = capsys.readouterr().err
    assert stderr.count("softfree: ") == 2
    assert "2 of 4 slides encoded" in stderr
    assert pd.read_csv(out / "table.csv")["path"].tolist() == ["a.tiff.h5", "deep/a.tiff.h5"]
    # Once fixed, the table and the files are as if nothing had happened.
    make_slide(tmp_path / "b.tiff", 1)
    rows = pd.read_csv(slides, dtype=str).assign(mpp=["", "", "", "8"])
    rows.to_csv(slides, index=False)
    assert run(slides, out) == 0
    assert not (out / "failed.csv").exists()
    assert len(pd.read_csv(out / "table.csv")) == 4


def test_nothing_but_failures(slides: Path, tmp_path: Path) -> None:
    for path in tmp_path.rglob("*.tiff"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of the 4 slides could be encoded.*failed\.csv"):
        run(slides, tmp_path / "out")
    assert set(pd.read_csv(tmp_path / "out" / "failed.csv")["status"]) == {"missing"}


def test_a_slide_with_other_pixels_or_resolution_is_encoded_anew(
    slides: Path, tmp_path: Path, make_slide: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    run(slides, out)
    before = files(out)
    make_slide(tmp_path / "a.tiff", 77)
    rows = pd.read_csv(slides, dtype=str).assign(mpp=["", "7", "", ""])
    rows.to_csv(slides, index=False)
    assert run(slides, out) == 0
    changed = {name for name, array in files(out).items() if not np.array_equal(array, before[name])}
    assert changed == {"a.tiff.h5", "b.tiff.h5"}


def test_a_slide_in_a_folder_is_known_by_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a.mrxs").write_bytes(bytes(3))
    folder, slide = (SlideRow("a", str(tmp_path / name), None) for name in ("a", "a.mrxs"))
    assert [row.request()["slide_bytes"] for row in (folder, slide)] == [0, 3]
    (tmp_path / "a" / "Data0000.dat").write_bytes(bytes(5))
    assert [row.request()["slide_bytes"] for row in (folder, slide)] == [5, 8]
    assert SlideRow("b", str(tmp_path / "b.svs"), None).request()["slide_bytes"] == 0


@pytest.mark.parametrize("option", [{"side": 16}, {"mpp": 16.0}, {"tissue": False}, {"precision": "bf16"}])
def test_a_folder_has_one_encoder_and_one_kind_of_tile(slides: Path, tmp_path: Path, option: dict[str, object]) -> None:
    run(slides, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="choose another folder with --out"):
        run(slides, tmp_path / "out", **option)
    assert all(np.array_equal(array, before[name]) for name, array in files(tmp_path / "out").items())


def test_a_file_of_another_encoder_is_refused(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(slides, out)
    write_features(out / "b.tiff.h5", np.zeros((3, 4), np.float32), np.zeros((3, 2)), {"encoder": "uni", "mpp": 8.0})
    with pytest.raises(UserError, match=r"b\.tiff\.h5 was made with encoder uni, but pixels was requested"):
        run(slides, out)


def test_a_full_disk_is_one_line(slides: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # as a disk that has no more room than that
    try:
        with pytest.raises(UserError, match=r"cannot write .*a\.tiff\.h5: File too large; free some space") as caught:
            run(slides, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.h5"))
    assert run(slides, tmp_path / "out") == 0


def test_half_of_a_file_is_made_again(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(slides, out)
    shutil.copytree(out, tmp_path / "whole")
    content = (out / "b.tiff.h5").read_bytes()
    (out / "b.tiff.h5").write_bytes(content[: len(content) // 2])
    with h5py.File(out / "c.tiff.h5", "a") as file:
        del file.attrs["complete"]
    assert run(slides, out) == 0
    assert_equal(out, tmp_path / "whole")


def test_two_rows_of_one_slide_share_its_features(slides: Path, tmp_path: Path) -> None:
    slides.write_text("path,frame_of,label\na.tiff,1,x\n./a.tiff,2,y\n")
    assert run(slides, tmp_path / "out") == 0
    assert len(files(tmp_path / "out")) == 1
    assert pd.read_csv(tmp_path / "out" / "table.csv")["path"].tolist() == ["a.tiff.h5", "a.tiff.h5"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard": "2/2"}, "--shard 2/2: expected i/n"),
        ({"shard": "half"}, "--shard half: expected i/n"),
        ({"mpp": 0.0}, "--mpp 0.0"),
        ({"side": 0}, "--side 0"),
        ({"share": 2.0}, "--share 2.0"),
        ({"encoder": "resnet18"}, "needs its weights"),
    ],
)
def test_options_that_cannot_be(slides: Path, tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(slides, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_paths_stay_below_the_folder(slides: Path, tmp_path: Path) -> None:
    slides.write_text("path\n../a.tiff\n")
    with pytest.raises(UserError, match=r"the path of line 2 leads out of .* --image-root"):
        run(slides, tmp_path / "out")
    slides.write_text("slide\na.tiff\n")
    with pytest.raises(UserError, match="no column 'path'"):
        run(slides, tmp_path / "out")


def test_the_verb(slides: Path, tmp_path: Path) -> None:
    parser = Parser(prog="softfree features")
    COMMANDS["Train"]["features"].arguments(parser)
    given = [
        str(slides),
        "--encoder",
        "pixels",
        "--out",
        str(tmp_path / "out"),
        "--side",
        "32",
        "--mpp",
        "8",
        "--shard",
        "0/2",
    ]
    parsed = parser.parse_args([*given, "--precision", "fp16", "--workers", "0", "--progress", "false"])
    assert COMMANDS["Train"]["features"].run(parsed) == 0
    assert len(files(tmp_path / "out")) == 2
