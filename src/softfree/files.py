"""Files written so that a half-written one is never taken for whole; YAML read with plain words for what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from softfree.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder that takes the name ``path`` when the block ends well.

    Raises:
        UserError: when the system refuses, for instance on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or name another folder"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` under a temporary name, then rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file, or say in one line why ``what`` cannot be read."""
    import yaml  # not in the runtime without torch

    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; name a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{what} {path} cannot be read as YAML: {str(error).splitlines()[0]}") from None
