"""Hashes of the files and patients used in training, so that a later evaluation can exclude them.

Only keyed hashes are kept, with a random key for each run. They do not identify anybody by themselves; whoever has both
the run and a list of ids can test whether an id is among them.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.modalities.base import Preprocessing
from softfree.data.samples import parts_of
from softfree.data.table import Table, frame_numbers
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.preprocessing.case import NumpyCasePreprocessing
from softfree_runtime.readers.series_files import is_dicom, series_in
from softfree_runtime.sources.identity import identify_patients
from softfree_runtime.sources.sample_source import CaseFile, SampleSource, files_of

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
        files = frozenset(digest for digests in _files(key, frame) for digest in digests)
        return cls(key, files, frozenset(filter(None, _patients(key, frame))))

    def rows(self, frame: pd.DataFrame, *, whole_series: bool = False) -> np.ndarray:
        """Return boolean ``(n,)``: rows of which a file, or the patient, was used in training.

        Args:
            frame: Rows of a table.
            whole_series: Whether a DICOM file stands for its series, see :func:`reads_series`.
        """
        mates = functools.cache(_series_in) if whole_series else None
        digests = _files(self.key, frame, mates)
        files = np.array([any(digest in self.files for digest in own) for own in digests], dtype=bool)
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


def reads_series(preprocessing: Preprocessing) -> bool:
    """Return whether a DICOM file named in a table stands for all of its series: a volume, or the levels of a slide."""
    each: Sequence[Any] = [preprocessing]
    if isinstance(preprocessing, NumpyCasePreprocessing):
        each = preprocessing.images
    return any(images.kind in ("volume", "slide") for images in each)


_Mates = Callable[[Path], Mapping[Path, Sequence[Path]]]
"""Returns the DICOM files in a folder, and all files of the series of each."""


def _files(key: bytes, frame: pd.DataFrame, mates: _Mates | None = None) -> Iterator[Iterator[str]]:
    """Hash the content of each file of each row, as far as they can be read; with ``mates`` also of its series."""
    for source, number in zip(frame["file"], frame_numbers(frame), strict=True):
        yield _digests(key, source, number, mates)


def _digests(key: bytes, source: SampleSource, number: int | None, mates: _Mates | None) -> Iterator[str]:
    for file in files_of(source):
        path, frame = Path(file.path), file.frame if isinstance(file, CaseFile) else number
        with suppress(OSError):
            yield from _hashed(key, parts_of(path), frame)
            if mates is not None and path.is_file() and is_dicom(path):
                for mate in mates(path.parent).get(path, ()):
                    yield from _hashed(key, [mate], frame)


def _hashed(key: bytes, parts: Sequence[Path], frame: int | None) -> Iterator[str]:
    """Hash files together, and each DICOM file among several: one is enough to know a series again."""
    end = str(frame or 0).encode()  # without a number it is the first frame
    together = blake2b(key=key, digest_size=12)
    for part in parts:
        content = _content(part)
        together.update(content)
        if len(parts) > 1 and is_dicom(part):
            yield blake2b(content + end, key=key, digest_size=12).hexdigest()
    together.update(end)
    yield together.hexdigest()


def _content(path: Path) -> bytes:
    """Return the size of a file and its bytes, of a large one those at either end."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        if size <= 2 * _END:
            content = file.read()
        else:
            content = file.read(_END)
            file.seek(-_END, os.SEEK_END)
            content += file.read()
    return size.to_bytes(8, "little") + content


def _series_in(folder: Path) -> dict[Path, tuple[Path, ...]]:
    try:
        return {path: series.files for series in series_in(folder) for path in series.files}
    except ReadError:  # reading the sample will tell what is wrong
        return {}


def _patients(key: bytes, frame: pd.DataFrame) -> Iterable[str]:
    if "patient_id" not in frame:
        return [""] * len(frame)
    ids = frame["patient_id"].fillna("").astype(str)
    known = ids.map(identify_patients(Counter(ids)).keys)
    return [blake2b(text.encode(), key=key, digest_size=12).hexdigest() if text else "" for text in known]
