"""A server as a process for ``softfree-lab bench serve``: started, watched, killed and started again."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

_START = 120.0
"""Seconds that a start may take."""


class ServerProcess:
    """``softfree serve`` with a store and a log in ``folder``.

    Attributes:
        address: Where it listens.
        started_in: Seconds from the start of the process to the first answer.
    """

    def __init__(self, model: Path, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / "log.txt"
        self._arguments = [f"bench={model}", "--store", str(folder / "store.sqlite"), *options]
        self._port = "0"
        self.start()

    def start(self) -> None:
        """Start it, on the same port as before."""
        before = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "softfree", "serve", *self._arguments, "--port", self._port]
        began = time.perf_counter()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not (found := re.search(r"at (http://[^:]+:(\d+))/", self.log.read_text()[before:])):
            if self.process.poll() is not None or time.perf_counter() - began > _START:
                raise RuntimeError(f"the server did not start: {self.log.read_text()[-500:]}")
            time.sleep(0.02)
        self.address, self._port = found.groups()
        while True:
            try:
                if httpx.get(f"{self.address}/health/ready", timeout=10).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        self.started_in = time.perf_counter() - began

    def workers(self) -> list[int]:
        """Numbers of the processes of its workers."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                    found.append(int(stat.parent.name))
            except OSError:  # it has just ended
                continue
        return found

    def memory(self) -> int:
        """Bytes of main memory of the server and its workers; shared pages count in parts (PSS)."""
        total = 0
        for pid in (self.process.pid, *self.workers()):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total

    def processor_time(self) -> float:
        """Seconds that the processors worked for the server and its workers so far."""
        ticks = 0
        for pid in (self.process.pid, *self.workers()):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def answers(self) -> list[tuple[str, int]]:
        """Job and number of each sample of a job in the audit log."""
        with sqlite3.connect(self.folder / "store.sqlite", timeout=30) as connection:
            return list(connection.execute("select job, number from audit where job is not null"))

    def answered_at_once(self) -> int:
        """Number of samples in the audit log that were no part of a job."""
        with sqlite3.connect(self.folder / "store.sqlite", timeout=30) as connection:
            return int(connection.execute("select count(*) from audit where job is null").fetchone()[0])

    def kill(self) -> None:
        """Kill the server without a word; its workers notice."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Tell the server to stop, and wait for it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


def kill_process(pid: int) -> None:
    """Kill a process, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
