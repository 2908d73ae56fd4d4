"""Inputs in object stores and on other machines, by fsspec's addresses, such as ``s3://bucket/folder``.

Each file is copied to a temporary folder while the one before is predicted, and removed afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from softfree.archive.dicomweb import Unanswered, fetch, is_dicomweb, list_dicomweb
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.inputs import TABLES, NamedSource, row_as_sample
from softfree_runtime.sources.sample_source import SourceFile, file_of, sample_source

AT_ONCE = 8  # copies, which mostly wait for the network
PAUSES = (1.0, 5.0, 20.0)  # seconds before each further try
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
Copies = Sequence["Future[Path] | None"]


def is_remote(text: str) -> bool:
    """Whether a text is an address such as ``s3://bucket/key``, and not a path."""
    return bool(_ADDRESS.match(text))


def list_remote(address: str, frame: int | None, kind: str) -> list[NamedSource]:
    """List the files at and below an address, in the order of their names; hidden files and tables are left out.

    Raises:
        UserError: The address cannot be listed, there is nothing, or the samples are no single files.
    """
    if is_dicomweb(address):
        return list_dicomweb(address, frame, kind)
    if kind == "case":
        raise UserError(f"{address}: the model takes cases, which need a table; copy the files, and name their table")
    system, path = _system(address)
    try:
        found = sorted(system.find(path)) if system.isdir(path) else [path] if system.exists(path) else []
    except Exception as error:  # the exceptions of the stores have no common base
        raise _unreachable(address, error) from None
    names = [name for name in found if _is_sample(name)]
    if not names:
        raise UserError(f"{address}: there is no file; expected the address of a file, or of a folder with files")
    return [(name, name, frame) for name in map(system.unstrip_protocol, names)]


def _is_sample(name: str) -> bool:
    parts = PurePosixPath(name)
    return not parts.name.startswith(".") and parts.suffix.lower() not in TABLES


class Fetcher:
    """Copies of remote files; local ones are left where they are."""

    def __init__(self, pauses: Sequence[float] = PAUSES, sleep: Callable[[float], None] = time.sleep) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._folder = tempfile.TemporaryDirectory(prefix="softfree-")
        self._pauses, self._sleep = pauses, sleep

    def begin(self, samples: Sequence[NamedSource]) -> list[Future[Path] | None]:
        """Begin to copy the remote ones of some samples."""
        return [self._pool.submit(self._copy, address) if (address := _address(sample)) else None for sample in samples]

    def local(
        self, samples: Sequence[NamedSource], copies: Copies
    ) -> tuple[dict[int, NamedSource], dict[int, ReadError]]:
        """Wait for copies; return by number the samples as local files, and the errors of those that have none.

        Raises:
            UserError: A store cannot be reached.
        """
        local: dict[int, NamedSource] = {}
        failed: dict[int, ReadError] = {}
        for number, ((name, source, frame), copy) in enumerate(zip(samples, copies, strict=True)):
            if copy is None:
                local[number] = name, source, frame
                continue
            try:
                file = replace(file_of(source), path=str(copy.result()))  # type: ignore[arg-type]
                local[number] = name, sample_source(file), frame
            except ReadError as error:
                failed[number] = error
        return local, failed

    def remove(self, copies: Copies) -> None:
        """Remove copies."""
        for copy in copies:
            if copy is not None and not copy.exception():
                path = copy.result()
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder."""
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def remove_folder(self) -> None:
        """Remove the folder without waiting for copies; for a process that ends at once."""
        shutil.rmtree(self._folder.name, ignore_errors=True)

    def _copy(self, address: str) -> Path:
        """Copy a file; a store that does not answer is asked again after growing pauses."""
        if is_dicomweb(address):
            return self._fetch(address)
        system, path = _system(address)
        suffix = "".join(PurePosixPath(path).suffixes[-2:]).lower()  # readers need .nii.gz
        handle, name = tempfile.mkstemp(suffix=suffix, dir=self._folder.name)
        os.close(handle)
        for pause in (*self._pauses, None):
            try:
                system.get_file(path, name)
                return Path(name)
            except FileNotFoundError as error:
                if _answers(system, path):
                    raise ReadError("there is no file at this address", "missing", path=address) from None
                if pause is None:
                    raise _unreachable(address, error) from None
            except PermissionError as error:
                reason = f"it may not be read ({_first_line(error)}); check the credentials of the store"
                raise ReadError(reason, "unreadable", path=address) from None
            except Exception as error:  # as above
                if pause is None:
                    raise _unreachable(address, error) from None
            self._sleep(pause)
        raise AssertionError

    def _fetch(self, address: str) -> Path:
        """Fetch from a DICOMweb server, in the same way."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        for pause in (*self._pauses, None):
            try:
                return fetch(address, folder)
            except Unanswered as error:
                shutil.rmtree(folder)
                folder.mkdir()
                if pause is None:
                    raise UserError(f"{error}; then give the same command again") from None
            self._sleep(pause)
        raise AssertionError


def _answers(system: Any, path: str) -> bool:
    """Whether a folder above a missing file, or its bucket, is there: otherwise the store is gone."""
    with suppress(Exception):
        while (above := system._parent(path)) not in (path, "", system.root_marker):
            if system.exists(above):
                return True
            path = above
    return False


def _address(sample: NamedSource) -> str | None:
    source = sample[1]
    if isinstance(source, str):
        return source if is_remote(source) else None
    if isinstance(source, SourceFile):
        return source.path if is_remote(source.path) else None
    return None


def _system(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.url_to_fs(address)
    except ImportError as error:
        raise UserError(f"{address}: {_first_line(error)}") from None
    except Exception as error:  # as above
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(
        f"{address} cannot be reached ({_first_line(error)}); check the address, the network and the credentials of the"
        " store, then give the same command again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def addresses_of_table(path: Path, frame: int | None, kind: str) -> list[NamedSource] | None:
    """List the rows of a table whose column ``path`` has addresses.

    Args:
        path: The table.
        frame: Frame of multi-frame files if the table has no column ``frame``.
        kind: Kind of the samples.

    Returns:
        None if its paths are those of files.

    Raises:
        UserError: Some rows have addresses, others paths, a frame or resolution is no number, or the model takes cases.
    """
    from softfree.data.table_file import read_table_file

    known = ["path", "frame", "mpp"]
    table = read_table_file(path, known)
    rows = table.frame[[name for name in known if name in table.frame]]
    if "path" not in rows:
        return None
    paths = rows["path"].fillna("").astype(str)
    remote = paths.map(is_remote)
    if not remote.any():
        return None
    if not remote.all():
        some = f"{int(remote.sum()):,} of {len(paths):,}"
        raise UserError(f"{path}: {some} paths are addresses, such as s3://...; expected all or none")
    if kind == "case":
        raise UserError(f"{path}: cases cannot be read from addresses; copy the files")
    cells: Any = rows.astype(object).where(rows.notna(), "").to_dict("index")
    return [row_as_sample(path, number, row, table.rows, name, frame, kind)
            for (number, row), name in zip(cells.items(), paths, strict=True)]  # fmt: skip
