"""Inputs are found as softfree predict finds them."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softfree.data import inputs
from softfree.data.samples import join_cases
from softfree.data.table import read_table
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers import read_image
from softfree_runtime.sources.inputs import find_inputs, samples_in, table_rows
from softfree_runtime.sources.sample_source import Case, CaseFile, SourceFile

as_images = partial(table_rows, kind="image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "below/c.dcm", ".hidden/d.png", ".e.png", "table.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("path\na.jpg\n")
    return tmp_path


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\na.jpg,x\n\nb.png,y\n",
        b"path,mpp\na.jpg,0.5\nb.png,none of an image's\n",
        b"\xef\xbb\xbfpath;frame\r\na.jpg;2\r\nb.png;\r\n",
        "label\tpath\nx\t\"a,1\tb.png\"\n".encode("utf-16"),
        "path,\"a;b;c\"\nM\xfcller.png,1\n".encode("latin-1"),
    ],
)  # fmt: skip
def test_tables_as_in_prediction(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    for frame in (None, 4):
        assert find_inputs([table], frame, "image", as_images) == inputs.find_inputs([table], frame)


@pytest.mark.parametrize("joined", [False, True])
def test_bags_of_a_table_as_in_prediction(tmp_path: Path, joined: bool) -> None:
    table = tmp_path / "t.csv"
    column = "case_id" if joined else "patient_id"
    table.write_text(f"path,{column},mpp,view\na.h5,p,0.25,\nb.h5,q,,\nc.h5,p,,biopsy\nd.h5,r,1e-1,\n")
    samples = find_inputs([table], None, "bag", partial(table_rows, kind="bag"))
    assert samples == inputs.find_inputs([table], None, "bag")
    assert len(samples) == 4 - joined
    case = Case((CaseFile(f"{tmp_path}/a.h5", 0.25), CaseFile(f"{tmp_path}/c.h5", view="biopsy")), "p")
    assert samples[0][:2] == (("a.h5;c.h5", case) if joined else ("a.h5", SourceFile(f"{tmp_path}/a.h5", 0.25)))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["0,5", "1,25", "", "-2"], [0.5, 1.25, None, -2]),
        (["1,234", "0,5", "3", ""], [1.234, 0.5, 3, None]),
        (["0.5", "1e1", "", "3"], [0.5, 10, None, 3]),
        (["1,234", "5", "", "3"], "column time holds '1,234'; expected a number"),  # or a thousand?
        (["0,5", "1.5", "", "3"], "column time holds '0,5'; expected a number"),
    ],
)
def test_times_as_in_training(tmp_path: Path, times: list[str], expected: list[float | None] | str) -> None:
    table = tmp_path / "t.csv"
    rows = (f"{number}.png;{'ab'[number % 2]};c{number};{time}\n" for number, time in enumerate(times))
    table.write_text("path;label;case_id;time\n" + "".join(rows))

    def trained() -> list[Any]:
        return list(join_cases(read_table(table, val_fraction=0.0, test_fraction=1.0)).sources)

    def predicted() -> list[Any]:
        return [source for _, source, _ in find_inputs([table], None, "case", partial(table_rows, kind="case"))]

    for cases in (trained, predicted):
        if isinstance(expected, str):
            with pytest.raises(UserError, match=expected):
                cases()
        else:
            assert [case.files[0].time for case in cases()] == expected


@pytest.mark.parametrize("name", ["a.h5;b.h5", "a.h5#mpp=0.25"])
@pytest.mark.parametrize("kind", ["image", "slide", "bag"])
def test_a_file_name_is_neither_a_list_nor_a_resolution(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "t.csv").write_text(f"path,case_id\n{name},p\nc.h5,p\n")
    path = f"{tmp_path}/{name}"
    rows = partial(table_rows, kind=kind)
    row, *others = find_inputs([tmp_path / "t.csv"], None, kind, rows)
    expected = Case((CaseFile(path), CaseFile(f"{tmp_path}/c.h5")), "p") if kind == "bag" else path
    assert row[1] == expected
    assert len(others) == (kind != "bag")
    assert find_inputs([path], None, kind, rows)[0][:2] == (path, path)


def test_a_resolution_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,mpp\na.svs,20x\n")
    with pytest.raises(UserError, match="column mpp holds '20x'"):
        find_inputs([tmp_path / "t.csv"], None, "slide", partial(table_rows, kind="slide"))


def test_folders_and_arrays(folder: Path) -> None:
    array = np.zeros((4, 5), np.uint8)
    samples = find_inputs([folder, array, "x.png", folder / "table.csv"], 1, "image", as_images)
    names = [*(str(folder / name) for name in ("a.jpg", "b.png", "below/c.dcm")), "array 1", "x.png", "a.jpg"]
    assert [name for name, _, _ in samples] == names
    assert [frame for _, _, frame in samples] == [1, 1, 1, None, 1, 1]
    with pytest.raises(UserError, match="an array for a model of samples of kind slide"):
        find_inputs([array], None, "slide", partial(table_rows, kind="slide"))


def test_folders_of_volumes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "below/b.nii", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    samples = find_inputs([tmp_path], None, "volume", partial(table_rows, kind="volume"))
    assert [name for name, _, _ in samples] == [str(tmp_path / "a.nii.gz"), str(tmp_path / "below/b.nii")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file\na.png\n", "no column 'path'; it has file"),
        (b"path,frame\n,1\n", "no path in line 2"),
        (b"path,frame\na,1\nb,x\n", "frame 'x' in line 3"),
        (b"path\na,b\n", "line 2: 2 cells, but the header has 1"),
        (b"PAR1xx", "save it as CSV"),
        (b"a\0b", "binary file"),
        (b"", "first line is empty"),
    ],
)
def test_bad_tables(tmp_path: Path, content: bytes, words: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=words):
        find_inputs([table], None, "image", as_images)


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\r\npath;mpp\r\na.svs;0,25\r\nb.svs;\r\n",
        b"path|case_id|mpp\na.svs|01|0.25\nb.svs|1.0|0,5\nc.svs|01|\n",
        "path,mpp\na.svs,0.5\n".encode("utf-16-le"),
        b'path,note,mpp\na.svs,"2"" margin\nleft",1\nsub//b.svs,,2\n',
        b"path,case_id\ra.svs,unknown\rb.svs,p1\rc.svs,p1\r",
    ],
)
@pytest.mark.parametrize("kind", ["bag", "slide"])
def test_odd_tables_as_in_prediction(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    samples = find_inputs([tmp_path / "t.csv"], None, kind, partial(table_rows, kind=kind))
    assert samples == inputs.find_inputs([tmp_path / "t.csv"], None, kind)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path\n../a.png\n", "line 2 leads out of"),
        (b"path\na.png\n/etc/passwd\n", "line 3 leads out of"),
        (b"path\nsub/../../a.png\n", "--image-root FOLDER"),
        (b"path\nsub\\a.png\n", "backslash in the path of line 2"),
        (b'path,note\na.png,"5 mm\nb.png,2" x\n', "a quote in lines 2 to 3"),
        ("path,label\na.png,\u80ba\u708e\n".encode("gbk"), "save it as UTF-8"),
        (b"path,path\na,b\n", "two columns are called 'path'"),
        (b"path,case_id\na,p\nb,\n", "line 3 have no case_id; give each row one"),
        (b"path,case_id,view\na,p,x\nb,p,x\n", "lines 2, 3 are of one case and have the same view 'x'"),
    ],
)
def test_tables_that_training_refuses(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError) as light:
        find_inputs([tmp_path / "t.csv"], None, "bag", partial(table_rows, kind="bag"))
    with pytest.raises(UserError) as full:
        inputs.find_inputs([tmp_path / "t.csv"], None, "bag")
    assert words in str(light.value)
    assert str(light.value) == str(full.value)


def test_the_folder_of_a_tables_paths_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/t.csv").write_text(f"path\na.png\n{tmp_path}/sub/b.png\n")
    rows = partial(as_images, image_root=tmp_path)
    samples = find_inputs([tmp_path / "lists/t.csv"], None, "image", rows)
    assert [source for _, source, _ in samples] == [f"{tmp_path}/a.png", f"{tmp_path}/sub/b.png"]
    assert samples == inputs.find_inputs([tmp_path / "lists/t.csv"], None, image_root=tmp_path)


@pytest.mark.parametrize("kind", ["image", "volume"])
def test_folders_with_links_and_closed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    given, store = tmp_path / "given", tmp_path / "store"
    for name in ("given/a.nii", "given/secret/b.nii", "store/c.nii", "given/.git/d.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (given / "linked").symlink_to(store)
    (store / "back").symlink_to(given)
    scandir = os.scandir

    def refuse(path: str = ".") -> object:
        if os.fspath(path) == str(given / "secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    samples = samples_in(given, kind)
    assert samples == [f"{given}/{name}" for name in ("a.nii", "linked/c.nii", "secret")]
    stderr = capsys.readouterr().err
    assert "not followed: linked/back" in stderr
    assert "skipped: .git" in stderr
    with pytest.raises(ReadError, match=r"cannot be opened \(Permission denied\)") as closed:
        read_image(samples[-1])
    assert closed.value.status == "missing"


def test_tables_below_a_folder_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples_in(folder, "image")
    assert "tables below it are skipped; name them to read their rows: table.csv" in capsys.readouterr().err


def test_nothing_given(tmp_path: Path) -> None:
    for given in ([], [tmp_path]):
        with pytest.raises(UserError, match="no sample given"):
            find_inputs(given, None, "image", as_images)
    with pytest.raises(UserError, match="no such table"):
        find_inputs([tmp_path / "none.csv"], None, "image", as_images)
    with pytest.raises(UserError, match="array of shape"):
        find_inputs([np.zeros((2, 2, 2), np.uint8)], None, "image", as_images)
