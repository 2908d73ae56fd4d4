"""Received files, by series or study, until nothing more arrives; what was received survives a restart."""

from __future__ import annotations

import os
import shutil
import threading
import time
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from pydicom.dataset import Dataset

from softfree.serving.hospital.routes import Routes
from softfree_runtime.readers.quiet import quiet


def short(uid: object) -> str:
    """Return a short name for a UID: for logs and files, since a UID can be looked up in the archive."""
    return sha256(str(uid).encode()).hexdigest()[:16]


class Incoming:
    """Folders of received files.

    ``receiving`` has a folder for each series that may still grow, and for each study of which a rule collects files;
    ``ready`` has one for each that is complete. Names follow from UIDs or are random. Its methods may be called from
    several threads.

    Attributes:
        expected: Short names of studies of which more is known to come; what rules collect of them waits.
        keywords: Elements that :meth:`add` needs.
    """

    def __init__(self, folder: Path, quiet: float, routes: Routes | None = None) -> None:
        """Open the folders, and take up what an earlier process received.

        Args:
            folder: Only one process may use it.
            quiet: Seconds without a new file after which a series counts as complete.
            routes: The rules, some of which may collect the files of a study.
        """
        self._receiving, self._ready, self._parts = (folder / name for name in ("receiving", "ready", "parts"))
        shutil.rmtree(self._parts, ignore_errors=True)  # never acknowledged
        for part in (self._receiving, self._ready, self._parts):
            part.mkdir(parents=True, exist_ok=True)
        self._quiet, self._routes = quiet, routes or Routes(())
        self._lock = threading.Lock()
        self._last = {path.name: time.monotonic() for path in self._receiving.iterdir()}
        self.expected: frozenset[str] = frozenset()
        self.keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", *self._routes.keywords)

    def part(self) -> Path:
        """Return a new path to write a file to before :meth:`add`."""
        return self._parts / token_hex(16)

    def add(self, path: Path, header: Dataset) -> None:
        """Take over a file from :meth:`part`; it is on disk when this returns.

        Args:
            path: The file.
            header: Its :attr:`keywords`; an instance that is received again replaces the first.
        """
        place, name = self._place(header), f"{short(header.SOPInstanceUID)}.dcm"
        study = _of_study(header)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            folder = self._receiving / place
            folder.mkdir(exist_ok=True)
            path.replace(folder / name)
            now = time.monotonic()
            self._last[place] = now
            for other in self._last:
                if other.startswith(study):  # the study is not quiet, whichever of its series grows
                    self._last[other] = now

    def claim(self) -> list[Path]:
        """Move what has been quiet to ``ready``, and return its folders."""
        claimed = []
        with self._lock:
            now = time.monotonic()
            for place in [name for name, last in self._last.items() if self._is_complete(name, now - last)]:
                del self._last[place]
                claimed.append(self._ready / token_hex(8))
                (self._receiving / place).replace(claimed[-1])
        return claimed

    def left_over(self) -> list[Path]:
        """Return the folders in ``ready``, such as those that an earlier process did not finish."""
        return sorted(path for path in self._ready.iterdir() if path.is_dir())

    def _place(self, header: Dataset) -> str:
        """Name the folder of a file: after its series, or after its study and the rule that collects it."""
        with quiet():
            number = self._routes.whole_study_for(header)
        return short(header.SeriesInstanceUID) if number is None else f"{_of_study(header)}{number}"

    def _is_complete(self, place: str, seconds: float) -> bool:
        study, of_study, number = place.partition("-")
        if not of_study:
            return seconds >= self._quiet
        quiet = self._routes.quiet_of(int(number))
        return study not in self.expected and seconds >= (self._quiet if quiet is None else quiet)


def _of_study(header: Dataset) -> str:
    """Return how the names of the folders of a study begin."""
    return f"{short(header.get('StudyInstanceUID'))}-"
