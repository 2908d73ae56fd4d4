"""A real server: ``softfree serve`` as a process of its own, with its workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


class Server:
    """A process that serves a model as ``small``, and ``others``; ``address`` is where."""

    def __init__(
        self, model: Path, folder: Path, *options: str, prefix: tuple[str, ...] = (), others: tuple[Path, ...] = ()
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        models = [f"small={model}", *map(str, others)]
        self._command = [*prefix, sys.executable, "-m", "softfree", "serve", *models, "--port", "0", "--store",
                         str(folder / "store.sqlite"), *options]  # fmt: skip
        self.log = folder / "log.txt"
        self.start()

    def start(self) -> None:
        path = os.pathsep.join(str(ROOT / root) for root in ("src", "runtime/src", "lab/src"))
        began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": path}
            )
        for _ in range(6000):  # ten minutes, for a machine on which much else runs
            said = self.log.read_text()[began:]
            if found := re.search(r"at (http://\S+?)/ ", said):
                self.address = found[1]
                break
            assert self.process.poll() is None, said
            time.sleep(0.1)
        self.client = httpx.Client(base_url=self.address, timeout=120)
        assert self.client.get("/health/ready").status_code == 200

    def predict(self, name: str, content: bytes, **query: object) -> httpx.Response:
        files = [("files", (name, content))]
        return self.client.post("/v1/models/small/predict", files=files, params={**query})  # type: ignore[arg-type]

    def workers(self) -> list[int]:
        """Numbers of the processes that the server started, but for the one that cleans up after them."""
        children = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                command = (stat.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == self.process.pid and b"spawn_main" in command:
                children.append(int(stat.parent.name))
        return children

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)
