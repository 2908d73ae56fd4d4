"""The output folder of feature extraction: complete slides, failures, and the settings of the encoder.

::

    settings.json       encoder, weights and tiles; other settings are rejected
    SLIDE.h5            features of one slide, in the same subfolders as in the table
    SLIDE.failed.json   why a slide failed
    table.csv           the rows of the table whose slides are complete, with the paths of their features
    failed.csv          the failed slides: path, status, reason

Both tables are rebuilt from the files each time, so that shards that share the folder end with complete tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.data.modalities.feature_files import read_attributes
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import write_atomically

SETTINGS, TABLE, FAILED = "settings.json", "table.csv", "failed.csv"


class FeatureFolder:
    """A folder of features.

    Args:
        path: The folder; created if missing.
        settings: Settings common to all of its files.

    Raises:
        UserError: It contains features made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, dict(settings)
        file = path / SETTINGS
        if not file.is_file():
            write_atomically(file, json.dumps(self.settings, indent=2) + "\n")
            return
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            stored = None
        if not isinstance(stored, dict):
            raise UserError(f"{file} does not contain settings of softfree features; choose another folder with --out")
        for name, value in self.settings.items():
            if stored.get(name) != value:
                raise UserError(
                    f"{path} has features made with {name} {stored.get(name)}, but {value} was requested;"
                    " choose another folder with --out"
                )

    def file(self, slide: str) -> Path:
        """Return the feature file of a slide; it keeps the slide's suffix, since a.svs and a.tiff are two slides."""
        return self.path / f"{slide}.h5"

    def is_complete(self, slide: str, request: Mapping[str, Any]) -> bool:
        """Return whether the features of a slide exist, made with these settings from this file.

        Raises:
            UserError: They exist, but were made with other settings.
        """
        stored = read_attributes(self.file(slide))
        if stored is None:
            return False
        for name, value in self.settings.items():
            if stored.get(name) != value:
                raise UserError(
                    f"{self.file(slide)} was made with {name} {stored.get(name)}, but {value} was requested;"
                    " choose another folder with --out"
                )
        return all(stored.get(name) == value for name, value in request.items())

    def clean(self, slide: str) -> None:
        """Remove a slide's partial files from an interrupted run, and the record of its failure."""
        file = self.file(slide)
        for path in (*file.parent.glob(f".{_escape(file.name)}.*.part.h5"), self._failure_file(slide)):
            path.unlink(missing_ok=True)

    def record_failure(self, slide: str, error: ReadError) -> None:
        """Record why a slide failed."""
        write_atomically(self._failure_file(slide), json.dumps({"status": error.status, "reason": str(error)}))

    def write_tables(self, frame: pd.DataFrame) -> None:
        """Write ``table.csv`` and ``failed.csv`` for the rows of ``frame``, from the files of all shards so far."""
        complete = frame[[self.file(slide).is_file() for slide in frame["path"]]]
        table = complete.assign(path=complete["path"] + ".h5")
        write_atomically(self.path / TABLE, table.to_csv(index=False))
        failed = []
        for slide in dict.fromkeys(frame["path"]):
            failure_file = self._failure_file(slide)
            if failure_file.is_file():
                failed.append({"path": slide, **json.loads(failure_file.read_text(encoding="utf-8"))})
        if failed:
            columns = ["path", "status", "reason"]
            write_atomically(self.path / FAILED, pd.DataFrame(failed, columns=columns).to_csv(index=False))
        else:
            (self.path / FAILED).unlink(missing_ok=True)

    def _failure_file(self, slide: str) -> Path:
        return self.path / f"{slide}.failed.json"


def _escape(name: str) -> str:
    """Escape the wildcards in a name for ``glob``."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
