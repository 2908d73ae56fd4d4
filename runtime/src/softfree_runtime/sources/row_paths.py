"""Absolute paths of a table's rows: one rule for all commands, without pandas."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import printable
from softfree_runtime.sources.table_text import RowNamer


def base_folder(table: Path, image_root: str | Path | None) -> Path:
    """Return the folder that the paths of a table are relative to and must stay in.

    Raises:
        UserError: ``image_root`` is not a folder.
    """
    own = table if table.is_dir() else table.parent
    folder = Path(os.path.abspath(own if image_root is None else image_root))
    if (name := printable(str(folder))) != str(folder):
        raise UserError(f"{name}: the name of the folder is not UTF-8; rename it")
    if not folder.is_dir():
        raise UserError(f"--image-root {image_root}: no such folder; name the one that the table's paths start from")
    return folder


def resolve_path(folder: str, path: str) -> str | None:
    """Return the absolute path of a row, or None if it leads out of ``folder``; links are followed on reading."""
    start = folder.rstrip(os.sep) + os.sep
    # Fast path for plain paths, without . or .. and not absolute.
    if os.sep == "/" and path[0] not in "./" and "/." not in path and "//" not in path and path[-1] != "/":
        return start + path
    file = os.path.normpath(os.path.join(folder, path))
    return file if file.startswith(start) else None


def resolve_paths(table: Path, paths: Iterable[str], rows: RowNamer, numbers: Iterable[int], folder: Path) -> list[str]:
    """Return the absolute paths of rows.

    Args:
        table: File of the table, for messages.
        paths: One per row, relative to ``folder``.
        rows: Names rows in messages.
        numbers: Numbers of the rows.
        folder: Folder that the paths start from and must stay in.

    Raises:
        UserError: A path is empty, leads out of the folder, or has backslashes.
    """
    paths, numbers = list(paths), list(numbers)
    if "" in paths:
        empty = [number for number, path in zip(numbers, paths, strict=True) if not path]
        raise UserError(f"{table}: no path in {rows.name(empty)}; fill it in or delete the row")
    if os.sep == "/" and (odd := [number for number, path in zip(numbers, paths, strict=True) if "\\" in path]):
        raise UserError(f"{table}: backslash in the path of {rows.name(odd)}; write / between folders")
    base = str(folder)
    files = [resolve_path(base, path) for path in paths]
    if None in files:
        outside = [number for number, file in zip(numbers, files, strict=True) if file is None]
        raise UserError(
            f"{table}: the path of {rows.name(outside)} leads out of {folder}; move the table into the folder that"
            " holds all images, or name that folder where the command takes --image-root FOLDER"
        )
    return files  # type: ignore[return-value]
