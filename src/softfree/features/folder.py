"""The folder of a feature extraction: what is whole in it, what failed, and whose encoder it belongs to.

::

    settings.json       encoder, weights and tiles; a run with others is refused
    SLIDE.h5            features of one slide, beside the same folders as in the table
    SLIDE.failed.json   why a slide gave none
    table.csv           the rows of the table whose slides are whole, path leading to the features
    failed.csv          the other rows that were tried: path, status, reason

Both tables are made from the files each time, so that shards that share the folder end with whole tables.
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
        path: The folder; made when it is not there.
        settings: What all of its files have in common.

    Raises:
        UserError: It holds features that were made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, dict(settings)
        file = path / SETTINGS
        if not file.is_file():
            write_atomically(file, json.dumps(self.settings, indent=2) + "\n")
            return
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            held = None
        if not isinstance(held, dict):
            raise UserError(f"{file} holds no settings of softfree features; name another folder with --out")
        for name, value in self.settings.items():
            if held.get(name) != value:
                raise UserError(
                    f"{path} holds features made with {name} {held.get(name)}, asked for is {value};"
                    " name another folder with --out"
                )

    def file(self, slide: str) -> Path:
        """Where the features of a slide are; its whole name is kept, since a.svs and a.tiff are two slides."""
        return self.path / f"{slide}.h5"

    def is_whole(self, slide: str, request: Mapping[str, Any]) -> bool:
        """Whether the features of a slide are there, made with these settings of this very file.

        Raises:
            UserError: They are there and were made with other settings.
        """
        held = read_attributes(self.file(slide))
        if held is None:
            return False
        for name, value in self.settings.items():
            if held.get(name) != value:
                raise UserError(
                    f"{self.file(slide)} was made with {name} {held.get(name)}, asked for is {value};"
                    " name another folder with --out"
                )
        return all(held.get(name) == value for name, value in request.items())

    def clean(self, slide: str) -> None:
        """Remove what a stopped run left half-written of a slide, and the note of its failure."""
        file = self.file(slide)
        for left in (*file.parent.glob(f".{_literal(file.name)}.*.part.h5"), self._note(slide)):
            left.unlink(missing_ok=True)

    def record_failure(self, slide: str, error: ReadError) -> None:
        """Note why a slide gave no features."""
        write_atomically(self._note(slide), json.dumps({"status": error.status, "reason": str(error)}))

    def write_tables(self, frame: pd.DataFrame) -> None:
        """Write ``table.csv`` and ``failed.csv`` for the rows of ``frame``, as far as any run has come."""
        whole = frame[[self.file(slide).is_file() for slide in frame["path"]]]
        table = whole.assign(path=whole["path"] + ".h5")
        write_atomically(self.path / TABLE, table.to_csv(index=False))
        failed = []
        for slide in dict.fromkeys(frame["path"]):
            note = self._note(slide)
            if note.is_file():
                failed.append({"path": slide, **json.loads(note.read_text(encoding="utf-8"))})
        if failed:
            columns = ["path", "status", "reason"]
            write_atomically(self.path / FAILED, pd.DataFrame(failed, columns=columns).to_csv(index=False))
        else:
            (self.path / FAILED).unlink(missing_ok=True)

    def _note(self, slide: str) -> Path:
        return self.path / f"{slide}.failed.json"


def _literal(name: str) -> str:
    """A name in which a shell pattern's signs stand for themselves."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
