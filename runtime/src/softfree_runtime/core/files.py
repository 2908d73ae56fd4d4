"""Files written so that a half-written one is never taken for whole; YAML read with plain words for what is wrong."""

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
    """Give a temporary path in the same folder that takes the name ``path`` when the block ends well.

    Raises:
        UserError: When the system refuses, for instance on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # some libraries make files that nobody else may read
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or name another folder"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Return the mask of this process, which can only be read by setting it."""
    with _reading_mask:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def remove_parts(folder: Path) -> None:
    """Remove what other processes have left half-written below ``folder``, which this one alone may write to."""
    for path in folder.rglob(".*.part*"):
        numbers = [part for part in path.name.split(".") if part.isdigit()]
        if path.is_file() and numbers and int(numbers[-1]) != os.getpid():
            with suppress(OSError):
                path.unlink()


def is_whole(path: Path) -> bool:
    """Whether every checksum of a file that torch has saved is right; torch itself reads over them.

    Without this, pages that a crash has left as zeros would be weights or pixels.
    """
    with suppress(Exception), zipfile.ZipFile(path) as archive:  # zipfile has many ways to meet damage
        return archive.testzip() is None
    return False


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` under a temporary name, then rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def printable(path: str) -> str:
    r"""The name of a file for messages and tables, bytes that are not UTF-8 as ``\xe9``."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file, or say in one line why ``what`` cannot be read."""
    import yaml  # not in the runtime without torch

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; name a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{what} {path} cannot be read as YAML: {str(error).splitlines()[0]}") from None


def say(source: str | Path, notes: Iterable[str]) -> None:
    """Print sentences about a table or a folder on standard error."""
    for note in notes:
        print(f"softfree: note: {printable(str(source))}: {note}", file=sys.stderr)
