"""A lock on a folder, which ends with its process."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from softfree.core.progress import console
from softfree_runtime.core.errors import UserError

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Errors of file systems without locks, as on some clusters and network shares."""


@contextmanager
def locked(out: Path, activity: str, *, name: str = ".lock", wait: bool = False) -> Iterator[None]:
    """Hold a lock in a folder.

    Args:
        out: The folder, created if missing.
        activity: What only one process at a time may do there, for messages.
        name: Name of the file that is locked.
        wait: Wait for another process instead of refusing.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be written.
    """
    lock = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / name)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise UserError(
            f"another process is {activity} in {out} right now; wait for it, or choose another --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        if lock is None or getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--out {out} cannot be written ({reason}); choose another folder") from None
        console.print(
            f"the file system of {out} has no locks: make sure that no other process is {activity} there",
            highlight=False,
            markup=False,
        )
    try:
        yield
    finally:
        lock.release()
