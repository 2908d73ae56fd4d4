"""A path that leads out of the table's folder is refused by every command, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from softfree.data import inputs
from softfree.data.table import read_table
from softfree.features.extract import read_slides
from softfree.pretraining.options import PretrainOptions
from softfree.pretraining.samples import find_samples
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import find_inputs, table_rows
from softfree_runtime.sources.row_paths import base_folder, resolve_path

READERS: dict[str, Callable[[Path], object]] = {
    "check, train, evaluate": read_table,
    "predict, explain, export": lambda path: inputs.find_inputs([path], None),
    "features": lambda path: read_slides(path, None),
    "pretrain": lambda path: find_samples(PretrainOptions(table=path)),
    "runtime": lambda path: find_inputs([path], None, "image", partial(table_rows, kind="image")),
}


@pytest.mark.parametrize("wrong", ["../a.png", "/etc/passwd", "sub/../../a.png", "..", "sub\\a.png"])
def test_one_rule_for_all_commands(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "t.csv").write_text(f"path,label\nok.png,x\n{wrong},y\n")
    text = set()
    for read in READERS.values():
        with pytest.raises(UserError) as error:
            read(tmp_path / "t.csv")
        text.add(str(error.value))
    assert len(text) == 1
    assert "line 3" in text.pop()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.png", "/d/a.png"),
        ("./a//b", "/d/a/b"),
        ("/d/x", "/d/x"),
        ("a/../b", "/d/b"),
        ("..a", "/d/..a"),
        ("a/", "/d/a"),
    ],
)
def test_paths_inside(path: str, expected: str) -> None:
    assert resolve_path("/d", path) == expected


@pytest.mark.parametrize("path", ["..", ".", "/", "/d2/a", "a/../..", "/d", "../d2/a", "a/.."])
def test_paths_outside(path: str) -> None:
    assert resolve_path("/d", path) is None


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    with pytest.raises(UserError, match=r"caf\\xe9: the name of the folder is not UTF-8"):
        base_folder(folder / "t.csv", None)
