"""All files below a folder, in order, including linked folders; what is skipped is recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from softfree_runtime.sources.folder_names import is_left_behind


@dataclass
class Skipped:
    """What a walk skipped.

    Attributes:
        left: Names of hidden files and folders and of system files.
        closed: Folders that cannot be listed, with the reason.
        loops: Links to an enclosing folder.
    """

    left: set[str] = field(default_factory=set)
    closed: dict[str, str] = field(default_factory=dict)
    loops: list[str] = field(default_factory=list)


def folders_below(folder: Path, skipped: Skipped | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all folders below it, with the sorted names of their files; fill ``skipped``."""
    skipped = Skipped() if skipped is None else skipped
    yield from _walk(str(folder), skipped, ())


def files_below(folder: Path, skipped: Skipped | None = None) -> list[str]:
    """List the paths of all files below a folder, sorted, including special files."""
    return sorted(
        (os.path.join(directory, name) for directory, names in folders_below(folder, skipped) for name in names),
        key=lambda path: path.split(os.sep),
    )


def _walk(folder: str, skipped: Skipped, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, list[str]]]:
    try:
        own = os.stat(folder)
        identity = own.st_dev, own.st_ino
        if identity in above:
            skipped.loops.append(folder)
            return
        with os.scandir(folder) as entries:
            contents = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        skipped.closed[folder] = error.strerror or str(error)
        return
    skipped.left |= {name for name, _ in contents if is_left_behind(name)}
    kept = [(name, inner) for name, inner in contents if not is_left_behind(name)]
    yield Path(folder), [name for name, inner in kept if not inner]
    for name in (name for name, inner in kept if inner):
        yield from _walk(os.path.join(folder, name), skipped, (*above, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False
