"""A real server: its processes, and what happens when one of them is killed."""

import asyncio
import os
import random
import signal
import socket
import sqlite3
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.serving.inline import png, serving
from tests.serving.server import Server

from softfree.serving import protocol
from softfree_runtime import predict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(small_model, tmp_path_factory.mktemp("server"), "--workers", "2", "--memory-limit", "0.25",
                     "--max-pixels", "1000000000")  # fmt: skip
    yield started
    assert started.stop() == 0


def test_a_row_is_that_of_predict_and_no_process_knows_torch_or_pandas(
    server: Server, small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(70))
    (expected,) = predict(small_model, str(tmp_path / "a.png"))
    response = server.predict("a.png", png(70))
    assert response.status_code == 200
    row = response.json()["predictions"][0]["row"]
    assert row["p_ill"] == pytest.approx(expected["p_ill"], abs=1e-6)
    assert row["predicted"] == expected["predicted"]
    for pid in (server.process.pid, *server.workers()):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "libpython" in mapped or "python" in mapped
        assert "libtorch" not in mapped
        assert "pandas/_libs" not in mapped
    assert "onnxruntime" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_an_image_that_fits_in_no_memory_is_422_and_the_worker_lives(server: Server) -> None:
    before = set(server.workers())
    bomb = server.predict("bomb.png", png_of_one_color(12_000))
    assert bomb.status_code == 422, bomb.text
    assert bomb.json()["status"] in ("too_large", "crashed")
    assert server.predict("a.png", png(1)).status_code == 200
    assert set(server.workers()) & before


def png_of_one_color(side: int) -> bytes:
    """A PNG of side x side gray pixels, without ever holding them: 144 million in some hundred kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(side + 1)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_killed_worker_is_replaced_and_nobody_notices(server: Server) -> None:
    job = server.client.post(
        "/v1/models/small/predict", params={"wait": False}, files=[("files", (f"{n}.png", png(n))) for n in range(40)]
    ).json()
    os.kill(random.Random(0).choice(server.workers()), signal.SIGKILL)
    done = wait_for(server, job["id"])
    assert [each["row"]["status"] for each in done["predictions"]] == ["ok"] * 40
    assert server.predict("a.png", png(1)).status_code == 200


def wait_for(server: Server, job: str) -> dict[str, Any]:
    for _ in range(600):
        state: dict[str, Any] = server.client.get(f"/v1/jobs/{job}").json()
        if state["state"] not in ("queued", "running"):
            return state
        time.sleep(0.1)
    raise AssertionError(f"the job did not end: {state['done']} of {state['total']}")


@pytest.mark.slow
def test_a_killed_server_goes_on_with_its_jobs(small_model: Path, tmp_path: Path) -> None:
    server = Server(small_model, tmp_path / "server", "--workers", "1")
    files = [("files", (f"{n}.png", png(n % 250))) for n in range(60)]
    job = server.client.post("/v1/models/small/predict", params={"wait": False}, files=files).json()["id"]
    orphans = server.workers()
    server.kill()
    server.start()
    done = wait_for(server, job)
    assert done["state"] == "done"
    assert [each["row"]["status"] for each in done["predictions"]] == ["ok"] * 60
    assert done["predictions"][0]["row"]["p_ill"] != done["predictions"][1]["row"]["p_ill"]
    with sqlite3.connect(server.folder / "store.sqlite") as connection:
        numbers = connection.execute("select number from audit where job = ?", (job,)).fetchall()
    assert sorted(number for (number,) in numbers) == list(range(60))
    assert list((server.folder / "spool").iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in orphans)
    assert server.stop() == 0
    assert ".png" not in server.log.read_text()


def test_a_client_that_never_ends_its_request_is_left(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with less patience."""
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)

    async def steps() -> None:
        async with serving(small_model, tmp_path) as inline:
            config = uvicorn.Config(inline.client._transport.app, http=protocol.Protocol, lifespan="off", port=0,  # type: ignore[attr-defined]
                                    log_level="error")  # fmt: skip
            listening = socket.create_server(("127.0.0.1", 0))
            web = uvicorn.Server(config)
            task = asyncio.create_task(web.serve(sockets=[listening]))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            began = time.monotonic()
            for letter in b"GET /health/live HTTP/1.1\r\nHos":
                writer.write(bytes([letter]))
                await asyncio.sleep(0.005)
            with suppress(ConnectionResetError):  # of bytes that came after the server had left
                assert await asyncio.wait_for(reader.read(), 5) == b""
            assert time.monotonic() - began < 3
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
            web.should_exit = True
            writer.close()
            await task

    asyncio.run(steps())
