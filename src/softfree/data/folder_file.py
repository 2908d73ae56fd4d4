"""A folder of classes read as a table: ``class/picture`` or ``split/class/picture``, as ImageNet lies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from softfree.errors import UserError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_folder(path: Path) -> tuple[pd.DataFrame, str]:
    """List the pictures of a folder of classes, in alphabetical order; none is opened.

    Where all folders at the top have names of splits, the classes are the folders below them. Names that begin with a
    dot are left out, pictures may lie at any depth below their class.

    Returns:
        Columns ``path`` (relative to the folder), ``label``, and ``split`` if there is one; a SHA-256 of names and
        sizes.

    Raises:
        UserError: a folder without classes, or pictures beside the classes.
    """
    tops = _folders(path)
    split_up = bool(tops) and all(top.name.casefold() in SPLIT_NAMES for top in tops)
    classes = [one for top in tops for one in _folders(Path(top))] if split_up else tops
    rows: list[tuple[str, str, str]] = []
    digest = hashlib.sha256()
    for folder in classes:
        split = SPLIT_NAMES[Path(folder).parent.name.casefold()] if split_up else ""
        for file, size in _files(Path(folder)):
            name = file.relative_to(path).as_posix()
            rows.append((name, folder.name, split))
            digest.update(f"{name}\0{size}\n".encode())
    if not rows:
        raise UserError(
            f"{path}: a folder without class folders that hold pictures; expected {path}/CLASS/picture or "
            f"{path}/train/CLASS/picture, or name a CSV or Parquet file"
        )
    frame = pd.DataFrame(rows, columns=["path", "label", "split"], dtype="string")
    return (frame if split_up else frame.drop(columns="split")), digest.hexdigest()


def _folders(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                file = Path(folder, name)
                yield file, file.stat().st_size
