"""Atomic writing of files, names of files for messages, and YAML with one-line errors."""

from __future__ import annotations

import os
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from softfree_runtime.core.errors import UserError

_reading_mask = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to ``path`` if the block succeeds.

    Raises:
        UserError: The file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # some libraries create files that only the owner may read
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Return the umask of this process, which can only be read by setting it."""
    with _reading_mask:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def remove_parts(folder: Path) -> None:
    """Remove partial files that other processes left below ``folder``; only this process may be writing there."""
    for path in folder.rglob(".*.part*"):
        numbers = [component for component in path.name.split(".") if component.isdigit()]
        if path.is_file() and numbers and int(numbers[-1]) != os.getpid():
            with suppress(OSError):
                path.unlink()


def is_whole(path: Path) -> bool:
    """Return whether all checksums of a file saved by torch are correct; torch itself does not verify them.

    Otherwise pages that a crash left as zeros would be read as weights or pixels.
    """
    with (
        suppress(Exception),
        zipfile.ZipFile(path) as archive,
    ):  # zipfile raises many exceptions on damaged files
        return archive.testzip() is None
    return False


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` under a temporary name, then rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def printable(path: str) -> str:
    r"""Return a file name for messages and tables, with bytes that are not UTF-8 as ``\xe9``."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file; UserError names ``what`` if it cannot be read."""
    import yaml  # not in the runtime without torch

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; name a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{what} {path} cannot be read as YAML: {str(error).splitlines()[0]}") from None


def say(source: str | Path, notes: Iterable[str]) -> None:
    """Print notes about a table or a folder on standard error."""
    for note in notes:
        print(f"softfree: note: {printable(str(source))}: {note}", file=sys.stderr)
