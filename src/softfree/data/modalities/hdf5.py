"""HDF5 files of other tools: errors become ReadError, and attributes plain values."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.image import in_one_line


class OpenedHDF5:
    """An open file whose errors become ReadError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> h5py.File:
        if not os.path.isfile(self.path):  # never raises, whatever the path
            raise ReadError("no such file; check the path and the folder it is relative to", "missing", path=self.path)
        try:
            self.file = h5py.File(self.path, "r")
        except Exception as error:
            raise ReadError(
                f"not readable as HDF5 ({in_one_line(error, self.path)}); extract it again", path=self.path
            ) from error
        return self.file

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.file.close()
        if isinstance(error, MemoryError):
            raise ReadError("does not fit in memory; use fewer tiles", "too_large", path=self.path) from error
        if isinstance(error, Exception) and not isinstance(error, ReadError):  # h5py raises almost anything
            # Messages of numpy may quote the file; those of HDF5 do not.
            reason = (
                in_one_line(error, self.path) if isinstance(error, OSError | RuntimeError) else type(error).__name__
            )
            raise ReadError(f"damaged feature file ({reason}); extract it again", path=self.path) from error


def plain(value: Any) -> Any:
    """Return an attribute as text, number, bool or list of these, as in JSON."""
    if isinstance(value, np.ndarray):
        return plain(value.flat[0]) if value.size == 1 else [plain(item) for item in value.tolist()]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.void) else value


def text(value: Any) -> str | None:
    """Return an attribute as text, None if it is missing."""
    plain_value = plain(value)
    return None if plain_value is None else str(plain_value)


def lengths(path: Path, name: str, value: Any) -> np.ndarray | None:
    """Return an attribute with one length, or one along x and one along y, as float64 (2,); None if missing or 0.

    Raises:
        ReadError: It is not a length.
    """
    plain_value = plain(value)
    try:
        pair = (
            np.broadcast_to(np.asarray(plain_value, dtype=np.float64), (2,)) if plain_value is not None else np.zeros(2)
        )
    except (TypeError, ValueError):
        pair = np.full(2, math.nan)
    if not (np.isfinite(pair) & (pair >= 0)).all():
        raise ReadError(f"the attribute {name} is not a length; expected a number above zero", path=path)
    return pair if pair.all() else None


def refuse_unwritten(path: Path, dataset: h5py.Dataset) -> None:
    """Raise ReadError for a partly written dataset, for which HDF5 would return zeros."""
    if dataset.is_virtual:
        folder = path.parent
        whole = all(
            source.file_name == "." or (folder / source.file_name).is_file() for source in dataset.virtual_sources()
        )
    elif dataset.chunks is not None:
        needed = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        whole = dataset.id.get_num_chunks() >= needed
    else:
        whole = bool(dataset.external) or dataset.id.get_storage_size() > 0
    if not whole:
        raise ReadError("damaged feature file: some of it was never written; extract it again", path=path)
