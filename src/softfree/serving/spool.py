"""Uploaded files by random names, until they are answered."""

from __future__ import annotations

from pathlib import Path


class Spool:
    """A folder of uploaded files; names are random, and the client's are never used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_folder(self) -> Path:
        """Make an empty folder with a random name, such as for the files of a case or series."""
        raise NotImplementedError
