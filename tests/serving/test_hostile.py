"""Long tests against a real server: arbitrary requests, and calls to other machines."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.serving.inline import png
from tests.serving.server import Server
from tests.watching import ROOT, SPY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")]


def test_the_api_is_what_its_description_says(small_model: Path, tmp_path: Path) -> None:
    """Schemathesis sends what fits the description and what does not; nothing may be an error of the server."""
    server = Server(small_model, tmp_path / "server", "--workers", "1", "--allow", str(tmp_path))
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.address}/v1/openapi.json",
               "--max-examples", "20", "--seed", "1", "--suppress-health-check", "all",
               "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
               "response_schema_conformance"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert server.client.get("/health/ready").status_code == 200
    assert server.stop() == 0
    assert "an error of the server" not in server.log.read_text()


def test_nobody_is_called_and_nothing_is_left_in_the_home_folder(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server and its workers, with Python's calls watched, and those of native code by strace if it is there."""
    for name in ("home", "spy"):
        (tmp_path / name).mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    for name in list(os.environ):
        if name.startswith(("ORT_", "HF_", "DO_NOT_TRACK", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPIED", str(tmp_path / "spied"))
    monkeypatch.setattr("tests.serving.server.ROOT", Roots(tmp_path / "spy"))
    traced = tmp_path / "traced"
    tracing = ("strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(traced))
    try:
        usable = subprocess.run([*tracing, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        usable = False
    server = Server(small_model, tmp_path / "server", "--workers", "2", prefix=tracing if usable else ())
    assert server.predict("a.png", png(1)).status_code == 200
    assert server.predict("a.txt", b"text").status_code == 422
    server.stop() if not usable else _stop_traced(server)
    logs = [path for path in (tmp_path / "spied", traced) if path.exists()]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    calls = [line for line in lines if "getaddrinfo" in line or "AF_INET" in line or "connect (('" in line]
    assert [line for line in calls if "127.0.0.1" not in line] == []
    assert list((tmp_path / "home").rglob("*")) == []


class Roots(type(ROOT)):  # type: ignore[misc]
    """The project's folder, whose first source folder is that of the spy."""

    def __truediv__(self, key: str) -> Path:
        return Path(f"{self}{os.pathsep}{ROOT / key}")


def _stop_traced(server: Server) -> None:
    """Stop what strace runs; it ends with it."""
    server.client.close()
    (child,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    server.process.wait(30)


def test_two_servers_on_one_store_answer_each_sample_once(small_model: Path, tmp_path: Path) -> None:
    first = Server(small_model, tmp_path / "server", "--workers", "1")
    second = Server(small_model, tmp_path / "server", "--workers", "1")
    jobs = []
    for number in range(12):
        files = [("files", (f"{n}.png", png(n))) for n in range(10)]
        server = (first, second)[number % 2]
        jobs.append(server.client.post("/v1/models/small/predict", params={"wait": False}, files=files).json()["id"])
    second.kill()
    until = time.monotonic() + 90
    while time.monotonic() < until:
        states = [first.client.get(f"/v1/jobs/{job}").json() for job in jobs]
        if all(state["state"] == "done" for state in states):
            break
        time.sleep(0.2)
    assert [state["state"] for state in states] == ["done"] * 12
    rows = [[each["row"]["p_ill"] for each in state["predictions"]] for state in states]
    assert all(row == rows[0] for row in rows)
    with sqlite3.connect(first.folder / "store.sqlite") as connection:
        assert connection.execute("select count(*), count(distinct job || number) from audit").fetchone() == (120, 120)
    assert first.stop() == 0
