"""Folders that cannot be listed, links and names of any bytes."""

import os
from pathlib import Path

import pytest

from softfree.data.table import read_table
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.walk import Skipped, files_below


@pytest.fixture
def closed(monkeypatch):
    """Make a folder that only its owner could list; tests may run as root, whom nothing stops."""

    def close(folder: Path) -> None:
        scandir = os.scandir

        def refuse(path="."):
            if os.fspath(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return close


def test_linked_folders_are_followed_once_around(tmp_path):
    for name in ("a/1.png", "a/b/2.png", "elsewhere/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/b/up").symlink_to("..")
    (tmp_path / "a/self").symlink_to("self")
    skipped = Skipped()
    results = [os.path.relpath(path, tmp_path) for path in files_below(tmp_path / "a", skipped)]
    assert results == ["a/1.png", "a/b/2.png", "a/c/3.png", "a/self"]
    assert skipped.loops == [str(tmp_path / "a/b/up")]


def test_what_cannot_be_listed_is_told(tmp_path, closed):
    (tmp_path / "a/secret").mkdir(parents=True)
    closed(tmp_path / "a/secret")
    skipped = Skipped()
    assert files_below(tmp_path, skipped) == []
    assert skipped.closed == {str(tmp_path / "a/secret"): "Permission denied"}


def test_a_closed_folder_is_no_smaller_set(tmp_path, closed):
    for name in ("a/1.png", "b/2.png", "b/more/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    closed(tmp_path / "b/more")
    with pytest.raises(UserError, match=r"b/more cannot be listed \(Permission denied\)"):
        read_table(tmp_path)
