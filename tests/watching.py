"""Commands run with an empty home folder and under the eyes of whoever asks whether they talk to anyone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Python's own calls; what native code does, strace sees.
SPY = """
import os, socket
def told(kind, call):
    def spy(*args, **kwargs):
        with open(os.environ["SPIED"], "a") as file:
            file.write(f"{kind} {args[1:] if kind == 'connect' else args}\\n")
        return call(*args, **kwargs)
    return spy
socket.socket.connect = told("connect", socket.socket.connect)
socket.getaddrinfo = told("getaddrinfo", socket.getaddrinfo)
"""


@dataclass(frozen=True)
class Watched:
    """What a command left behind.

    Attributes:
        status: exit status.
        home: files in the home folder, by their names from there.
        calls: of hosts, one line each.
        said: on both outputs.
    """

    status: int
    home: list[str]
    calls: list[str]
    said: str


def watch(arguments: list[str], folder: Path, program: list[str] | None = None) -> Watched:
    """Run ``softfree`` with these arguments, or another program of Python, as a user without any settings would."""
    home, spy, spied, traced = (folder / name for name in ("home", "spy", "spied", "traced"))
    for made in (home, spy):
        made.mkdir(parents=True)
    (spy / "sitecustomize.py").write_text(SPY)
    names = ("ORT_", "HF_", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "XDG_", "MPLCONFIGDIR", "CI")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    path = os.pathsep.join([str(spy), *(str(ROOT / root) for root in ("src", "runtime/src", "lab/src"))])
    settings |= {"HOME": str(home), "USERPROFILE": str(home), "PYTHONPATH": path, "SPIED": str(spied)}
    command = [sys.executable, *(program or ["-m", "softfree"]), *arguments]
    if shutil.which("strace"):
        tracing = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(traced)]
        if subprocess.run([*tracing, "true"], check=False, capture_output=True).returncode == 0:
            command = [*tracing, *command]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    lines = [line for log in (spied, traced) if log.exists() for line in log.read_text().splitlines()]
    calls = [line for line in lines if line.startswith("getaddrinfo") or "AF_INET" in line or "connect (('" in line]
    return Watched(done.returncode, files, calls, done.stdout + done.stderr)
