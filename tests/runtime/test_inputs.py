"""Inputs are found as softfree predict finds them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from softfree import prediction
from softfree.errors import UserError
from softfree.runtime.inputs import find_inputs, table_rows

as_pictures = partial(table_rows, kind="picture")


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
        b"path,mpp\na.jpg,0.5\nb.png,none of a picture's\n",
        b"\xef\xbb\xbfpath;frame\r\na.jpg;2\r\nb.png;\r\n",
        "label\tpath\nx\t\"a,1\tb.png\"\n".encode("utf-16"),
        "path,\"a;b;c\"\nM\xfcller.png,1\n".encode("latin-1"),
    ],
)  # fmt: skip
def test_tables_as_in_prediction(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    for frame in (None, 4):
        assert find_inputs([table], frame, "picture", as_pictures) == prediction.find_inputs([table], frame)


@pytest.mark.parametrize("group", [False, True])
def test_bags_of_a_table_as_in_prediction(tmp_path: Path, group: bool) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,patient_id,mpp\na.h5,p,0.25\nb.h5,,\nc.h5,p,\nd.h5,,1e-1\n")
    found = find_inputs([table], None, "bag", partial(table_rows, kind="bag", group=group))
    assert found == prediction.find_inputs([table], None, "bag", group)
    assert len(found) == 4 - group
    assert found[0][1] == f"{tmp_path}/a.h5#mpp=0.25" + group * f";{tmp_path}/c.h5"


def test_a_resolution_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,mpp\na.svs,20x\n")
    with pytest.raises(UserError, match="column mpp holds '20x'"):
        find_inputs([tmp_path / "t.csv"], None, "slide", partial(table_rows, kind="slide"))


def test_folders_and_arrays(folder: Path) -> None:
    array = np.zeros((4, 5), np.uint8)
    found = find_inputs([folder, array, "x.png", folder / "table.csv"], 1, "picture", as_pictures)
    names = [*(str(folder / name) for name in ("a.jpg", "b.png", "below/c.dcm")), "array 1", "x.png", "a.jpg"]
    assert [name for name, _, _ in found] == names
    assert [frame for _, _, frame in found] == [1, 1, 1, None, 1, 1]
    with pytest.raises(UserError, match="an array for a model of samples of kind slide"):
        find_inputs([array], None, "slide", partial(table_rows, kind="slide"))


def test_folders_of_volumes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "below/b.nii", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_inputs([tmp_path], None, "volume", partial(table_rows, kind="volume"))
    assert [name for name, _, _ in found] == [str(tmp_path / "a.nii.gz"), str(tmp_path / "below/b.nii")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file\na.png\n", "no column 'path'; it has file"),
        (b"path,frame\n,1\n", "row 0 has no path"),
        (b"path,frame\na,1\nb,x\n", "row 1 has frame 'x'"),
        (b"path\na,b\n", "row 0 has 2 cells; expected 1"),
        (b"PAR1xx", "save it as CSV"),
        (b"a\0b", "binary file"),
        (b"", "no column 'path'"),
    ],
)
def test_bad_tables(tmp_path: Path, content: bytes, words: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=words):
        find_inputs([table], None, "picture", as_pictures)


def test_nothing_given(tmp_path: Path) -> None:
    for given in ([], [tmp_path]):
        with pytest.raises(UserError, match="no sample given"):
            find_inputs(given, None, "picture", as_pictures)
    with pytest.raises(UserError, match="no such table"):
        find_inputs([tmp_path / "none.csv"], None, "picture", as_pictures)
    with pytest.raises(UserError, match="array of shape"):
        find_inputs([np.zeros((2, 2, 2), np.uint8)], None, "picture", as_pictures)
