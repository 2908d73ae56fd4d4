"""Uploaded files by random names, until they are answered."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from softfree.core.endings import ending_of
from softfree_runtime.core.errors import UserError

_FILES, _MAPS = "files", "maps"


class Spool:
    """A folder of uploaded files; names are random, and the client's are never used.

    Each sample has a folder of its own: some readers look for the other files of a series beside the first. ::

        <32 hexadecimal digits>/files/   the files, or a link to a file of an allowed folder
        <32 hexadecimal digits>/maps/    the maps
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"--spool {folder}: {error.strerror}; name a folder that can be written") from None

    def new_folder(self) -> Path:
        """Make an empty folder for the files of a sample."""
        folder = self.folder / secrets.token_hex(16) / _FILES
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def new_file(self, folder: Path, name: str) -> Path:
        """Return the path of a new file in a folder of :meth:`new_folder`; of the client's name only the ending stays.

        Files of the same name but for a known ending, such as a .hdr and its .img, keep this in common.
        """
        lower = name.lower()
        ending = ending_of(lower)
        stem = self._stem(folder, lower[: len(lower) - len(ending)]) if ending.startswith((".hdr", ".img")) else ""
        path = folder / f"{stem or secrets.token_hex(8)}{ending}"
        return path if not path.exists() else folder / f"{secrets.token_hex(8)}{ending}"

    def _stem(self, folder: Path, stem: str) -> str:
        """Return a name that cannot be traced to ``stem`` and is the same within the folder."""
        text, key = stem.encode("utf-8", "surrogatepass"), folder.parent.name.encode()
        return blake2b(text, key=key, digest_size=8).hexdigest()

    def link(self, path: Path, folder: Path | None = None) -> Path:
        """Return a path in the spool that stands for a file or folder elsewhere.

        Args:
            path: The file or folder.
            folder: A folder of :meth:`new_folder`, for files that belong together; None for a new one.
        """
        link = self.new_file(folder or self.new_folder(), path.name)
        link.symlink_to(path, target_is_directory=path.is_dir())
        return link

    def sample_folder(self, path: Path) -> Path | None:
        """Return the folder of the sample that a path belongs to; None for a path elsewhere."""
        try:
            first = path.relative_to(self.folder).parts[0]
        except (ValueError, IndexError):
            return None
        return self.folder / first

    def maps_of(self, paths: Sequence[Path]) -> Path:
        """Return the folder for the maps of a sample with these files."""
        folder = self.sample_folder(paths[0])
        assert folder is not None
        return folder / _MAPS

    def relative(self, path: Path) -> str:
        """Return a path within the spool, for the store."""
        return path.relative_to(self.folder).as_posix()

    def absolute(self, name: str) -> Path:
        """Return the path of :meth:`relative`."""
        return self.folder / name

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete samples with all their files; paths outside the spool are left alone."""
        for folder in {self.sample_folder(path) for path in paths} - {None}:
            shutil.rmtree(folder, ignore_errors=True)  # type: ignore[arg-type]

    def remove_old(self, seconds: float, known: Iterable[str]) -> int:
        """Delete folders that nobody knows and that nothing was added to for some time; return how many.

        Args:
            seconds: Time since the last change.
            known: Names of the folders of samples that wait or are held.
        """
        kept, removed = set(known), 0
        with os.scandir(self.folder) as entries:
            old = [entry.path for entry in entries
                   if entry.is_dir(follow_symlinks=False) and len(entry.name) == 32 and entry.name not in kept
                   and time.time() - _last_change(entry.path) > seconds]  # fmt: skip
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
        return removed


def _last_change(folder: str) -> float:
    """Return when a file of a folder was last written or added."""
    times = [os.stat(folder).st_mtime]
    for directory, _, names in os.walk(folder):
        times.append(os.stat(directory).st_mtime)
        times += [os.lstat(os.path.join(directory, name)).st_mtime for name in names]
    return max(times)
