"""A worker as the server sees it: a process, a pipe, and the ways in which it may end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from softfree.serving.worker import Ready, Reply, WorkerSettings, main
from softfree_runtime.core.errors import UserError

_LOOK = 0.25
"""Seconds between two looks at whether anybody still waits for the answer."""


class Died(Exception):
    """The process ended during a task.

    Attributes:
        exit_code: Its exit status, or minus the number of the signal that ended it.
        from_outside: Whether somebody killed it, and not the system for want of memory: the task is not at fault.
    """

    def __init__(self, exit_code: int | None, from_outside: bool = False) -> None:
        super().__init__(exit_code, from_outside)
        self.exit_code, self.from_outside = exit_code, from_outside

    def __str__(self) -> str:
        if self.exit_code is not None and self.exit_code < 0:
            return signal.Signals(-self.exit_code).name
        return f"exit status {self.exit_code}"


class Expired(Exception):
    """The task took longer than its limit, or nobody waits for it any longer; the process was ended."""


class WorkerProcess:
    """A process; its methods block, so that they are called in threads."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.ready = Ready()
        self._process: BaseProcess | None = None

    def start(self) -> Ready:
        """Start the process, and return its first message; see :meth:`wait_ready`."""
        self.launch()
        return self.wait_ready()

    def launch(self) -> None:
        """Start the process."""
        context: SpawnContext = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=main, args=(theirs, self.settings, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def wait_ready(self) -> Ready:
        """Return the first message of the process.

        Raises:
            UserError: It cannot work, such as for a damaged model.
        """
        assert self._process is not None
        try:
            self.ready = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise UserError(
                f"a worker ended while it loaded the models ({Died(self._process.exitcode)}); is there enough memory?"
            ) from None
        if self.ready.error:
            self.kill()
            raise UserError(self.ready.error)
        return self.ready

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.is_alive()

    def ask(self, work: object, seconds: float, is_abandoned: Callable[[], bool]) -> Reply:
        """Give the worker a task and return its answer.

        Args:
            work: The task.
            seconds: Time after which the process is ended.
            is_abandoned: Whether nobody waits for the answer any longer, which ends the process, too.

        Raises:
            Died: The process has ended.
            Expired: The time has passed.
        """
        assert self._process is not None
        before = _kills_for_memory()
        try:
            self._pipe.send(work)
            left = seconds
            while not connection.wait([self._pipe, self._process.sentinel], min(left, _LOOK)):
                left -= _LOOK
                if left <= 0 or is_abandoned():
                    self.kill()
                    raise Expired
            reply: Reply = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            self.kill()
            raise Died(code, code == -signal.SIGKILL and before is not None and _kills_for_memory() == before) from None
        return reply

    def kill(self) -> None:
        """End the process now."""
        if self._process is None:
            return
        self._process.kill()
        self._process.join(5)
        self._pipe.close()


def _kills_for_memory() -> int | None:
    """Return how many processes Linux has killed for want of memory since its start; None where that is not known."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
