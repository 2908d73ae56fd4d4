"""Received files, by series, until nothing more arrives; what was received survives a restart."""

from __future__ import annotations

import os
import shutil
import threading
import time
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from pydicom.dataset import Dataset


def short(uid: object) -> str:
    """Return a short name for a UID: for logs and files, since a UID can be looked up in the archive."""
    return sha256(str(uid).encode()).hexdigest()[:16]


class Incoming:
    """Folders of received files.

    ``receiving`` has a folder for each series that may still grow, ``ready`` one for each that is complete. Names
    follow from UIDs or are random. Its methods may be called from several threads.
    """

    def __init__(self, folder: Path, quiet: float) -> None:
        """Open the folders, and take up what an earlier process received.

        Args:
            folder: Only one process may use it.
            quiet: Seconds without a new file after which a series counts as complete.
        """
        self._receiving, self._ready, self._parts = (folder / name for name in ("receiving", "ready", "parts"))
        shutil.rmtree(self._parts, ignore_errors=True)  # never acknowledged
        for part in (self._receiving, self._ready, self._parts):
            part.mkdir(parents=True, exist_ok=True)
        self._quiet = quiet
        self._lock = threading.Lock()
        self._last = {path.name: time.monotonic() for path in self._receiving.iterdir()}

    def part(self) -> Path:
        """Return a new path to write a file to before :meth:`add`."""
        return self._parts / token_hex(16)

    def add(self, path: Path, header: Dataset) -> None:
        """Take over a file from :meth:`part`; it is on disk when this returns.

        Args:
            path: The file.
            header: Its series and instance; a file that is received again replaces the first.
        """
        series, name = short(header.SeriesInstanceUID), f"{short(header.SOPInstanceUID)}.dcm"
        with path.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            folder = self._receiving / series
            folder.mkdir(exist_ok=True)
            path.replace(folder / name)
            self._last[series] = time.monotonic()

    def claim(self) -> list[Path]:
        """Move the series that have been quiet to ``ready``, and return their folders."""
        claimed = []
        with self._lock:
            now = time.monotonic()
            for series in [name for name, last in self._last.items() if now - last >= self._quiet]:
                del self._last[series]
                claimed.append(self._ready / token_hex(8))
                (self._receiving / series).replace(claimed[-1])
        return claimed

    def left_over(self) -> list[Path]:
        """Return the folders in ``ready``, such as those that an earlier process did not finish."""
        return sorted(path for path in self._ready.iterdir() if path.is_dir())
