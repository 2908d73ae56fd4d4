"""Child processes for training runs that end with their parent, however it ends.

A child watches its standard input, whose other end the parent holds: the system closes it when the parent ends, even if
the parent is killed. This works on every system, unlike signals on the death of a parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from softfree_runtime.core.errors import UserError

MODULE = "softfree_lab.studies.children"
"""The module that a child runs."""


class Children:
    """The children of this process; leaving the block kills those that still run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._ended = threading.Lock(), False

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            running = list(self._running)
        for child in running:
            child.kill()

    def run(self, arguments: Sequence[str], threads: int, module: str | None = None) -> None:
        """Run a command of softfree, or another module, and wait for it.

        Args:
            arguments: Arguments of the command line.
            threads: Number of threads.
            module: The module to run, which calls :func:`end_with_parent` first; default: that of softfree's commands.

        Raises:
            UserError: The child failed; the message is the child's.
        """
        with self._lock:
            if self._ended:
                raise UserError("the study was stopped")
            child = subprocess.Popen(
                [sys.executable, "-m", module or MODULE, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"},
            )
            self._running.add(child)
        assert child.stderr is not None
        messages = child.stderr.read()  # not communicate(), which closes the child's standard input first
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        for stream in (child.stdin, child.stderr):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        if code:
            reason = (messages.strip().splitlines() or [f"it ended with status {code} and no message"])[-1]
            raise UserError(reason.removeprefix("softfree: error: "))


def end_with_parent() -> None:
    """End this process when its parent has ended."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    with suppress(OSError):
        while os.read(0, 1):  # the descriptor, because exit would wait for the lock of sys.stdin
            pass
    os._exit(1)


if __name__ == "__main__":
    end_with_parent()
    import softfree_lab.studies.peers  # noqa: F401  # registers their names in the child, too
    from softfree.cli.main import main

    sys.exit(main())
