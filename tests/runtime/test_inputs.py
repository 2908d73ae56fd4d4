"""Inputs are found as softfree predict finds them."""

from pathlib import Path

import numpy as np
import pytest

from softfree import prediction
from softfree.errors import UserError
from softfree.runtime.inputs import find_inputs


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
        b"\xef\xbb\xbfpath;frame\r\na.jpg;2\r\nb.png;\r\n",
        "label\tpath\nx\t\"a,1\tb.png\"\n".encode("utf-16"),
        "path,\"a;b;c\"\nM\xfcller.png,1\n".encode("latin-1"),
    ],
)  # fmt: skip
def test_tables_as_in_prediction(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    for frame in (None, 4):
        names, sources, frames = prediction.find_inputs([table], frame)
        assert find_inputs([table], frame) == list(zip(names, sources, frames, strict=True))


def test_folders_and_arrays_as_in_prediction(folder: Path) -> None:
    array = np.zeros((4, 5), np.uint8)
    given = [folder, array, "x.png", folder / "table.csv"]
    names, sources, frames = prediction.find_inputs(given, 1)
    found = find_inputs(given, 1)
    assert [one[0] for one in found] == names
    assert [one[2] for one in found] == frames
    assert [str(one[1]) for one in found] == [str(one) for one in sources]


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
        find_inputs([table], None)


def test_nothing_given(tmp_path: Path) -> None:
    for given in ([], [tmp_path]):
        with pytest.raises(UserError, match="no sample given"):
            find_inputs(given, None)
    with pytest.raises(UserError, match="no such table"):
        find_inputs([tmp_path / "none.csv"], None)
    with pytest.raises(UserError, match="array of shape"):
        find_inputs([np.zeros((2, 2, 2), np.uint8)], None)
