"""Hashes of the files and patients used in training, so that a later evaluation can exclude them.

Only keyed hashes are kept, with a random key for each run. They do not identify anybody by themselves; whoever has both
the run and a list of ids can test whether an id is among them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.data.samples import parts_of
from softfree.data.table import Table, frame_numbers
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.sources.identity import identify_patients
from softfree_runtime.sources.sample_source import files_of

_END = 1 << 20  # bytes at either end of a large file that are hashed


@dataclass(frozen=True)
class SeenRows:
    """Hashes of the training and validation rows.

    Attributes:
        key: Key of the hashes.
        files: Hashes of file contents, with the frame of a multi-frame file.
        patients: Hashes of patient ids, in the form in which ids are compared.
    """

    key: bytes
    files: frozenset[str]
    patients: frozenset[str]

    @classmethod
    def of(cls, table: Table) -> SeenRows:
        """Hash the rows of ``train`` and ``val``."""
        key = secrets.token_bytes(16)
        frame = table.frame[table.frame["split"].isin(["train", "val"])]
        files = frozenset(filter(None, _files(key, frame)))
        return cls(key, files, frozenset(filter(None, _patients(key, frame))))

    def rows(self, frame: pd.DataFrame) -> np.ndarray:
        """Return boolean ``(n,)``: rows whose file or patient was used in training."""
        files = np.array([digest in self.files for digest in _files(self.key, frame)], dtype=bool)
        return files | np.array([digest in self.patients for digest in _patients(self.key, frame)], dtype=bool)

    def write(self, path: Path) -> None:
        """Write ``seen.json`` of a run directory."""
        content = {"key": self.key.hex(), "files": sorted(self.files), "patients": sorted(self.patients)}
        write_atomically(path, json.dumps(content))


def read_seen_rows(path: Path) -> SeenRows | None:
    """Read the file of a run; None if it has none.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return SeenRows(bytes.fromhex(content["key"]), frozenset(content["files"]), frozenset(content["patients"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} cannot be read; copy the run again") from None


def _files(key: bytes, frame: pd.DataFrame) -> Iterable[str]:
    """Hash the content of each row's files; empty if they cannot be read."""
    for source, number in zip(frame["file"], frame_numbers(frame), strict=True):
        digest = blake2b(key=key, digest_size=12)
        try:
            for file in files_of(source):
                for path in parts_of(Path(file.path)):
                    _add(digest, path)
        except OSError:
            yield ""
            continue
        digest.update(str(number or 0).encode())  # without a number it is the first frame
        yield digest.hexdigest()


def _add(digest: blake2b, path: Path) -> None:
    size = os.path.getsize(path)
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= 2 * _END:
            digest.update(file.read())
        else:
            digest.update(file.read(_END))
            file.seek(-_END, os.SEEK_END)
            digest.update(file.read())


def _patients(key: bytes, frame: pd.DataFrame) -> Iterable[str]:
    if "patient_id" not in frame:
        return [""] * len(frame)
    ids = frame["patient_id"].fillna("").astype(str)
    known = ids.map(identify_patients(Counter(ids)).keys)
    return [blake2b(text.encode(), key=key, digest_size=12).hexdigest() if text else "" for text in known]
