"""The HTTP API: answers, jobs, limits, and what is left behind."""

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import sqlalchemy as sql
from starlette.requests import ClientDisconnect
from tests.serving.inline import Serving, png, serving
from tests.small_model import ABOUT, write_model

from softfree.serving.models import source_of
from softfree.serving.process import Died, Expired
from softfree.serving.worker import PredictWork
from softfree_runtime import predict
from softfree_runtime.sources.volume_files import read_volume

NAME = "DOE^JOHN 1950-01-02.png"


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


def stored(folder: Path) -> str:
    """Everything that the store says."""
    with sqlite3.connect(folder / "store.sqlite") as connection:
        return "\n".join(connection.iterdump())


def left_in_spool(folder: Path) -> list[Path]:
    return list((folder / "spool").iterdir())


def test_one_file_gets_the_row_of_predict(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(60))
    (row,) = predict(small_model, str(tmp_path / "a.png"))

    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            response = await server.predict((NAME, png(60)))
            assert response.status_code == 200
            (prediction,) = response.json()["predictions"]
            assert prediction["row"] == row | {"path": NAME}
            assert prediction["steps"][0] == "gray, scaled to a longest side of 32 pixels and padded to a square"
            served = server.service.models["small"]
            assert response.json()["model"] == {"name": "small", "version": "0.1.0", "hash": served.version.hash}
            assert left_in_spool(tmp_path) == []

    run(steps())


def test_what_cannot_be_read_is_422_alone_and_a_row_among_others(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            alone = await server.predict(("a.txt", b"text"))
            assert alone.status_code == 422
            assert alone.json()["status"] == "unsupported"
            assert alone.json()["error"].startswith("a.txt: not an image that softfree reads")
            several = await server.predict(("a.png", png(10)), ("b.png", b""), ("c.png", png(200)))
            assert several.status_code == 200
            rows = [each["row"] for each in several.json()["predictions"]]
            assert [row["status"] for row in rows] == ["ok", "empty", "ok"]
            assert rows[1]["reason"] == "b.png: an empty file (0 bytes); fetch it again"
            assert rows[0]["p_ill"] != rows[2]["p_ill"]

    run(steps())


def test_a_job_has_the_same_rows_and_names_nothing(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            files = [(NAME, png(value)) for value in (10, 100, 200)]
            at_once = (await server.predict(*files)).json()["predictions"]
            job = await server.job(*files, (NAME, b"text"))
            assert (job["state"], job["done"], job["total"]) == ("done", 4, 4)
            rows = [each["row"] for each in job["predictions"]]
            assert [row["p_ill"] for row in rows[:3]] == [each["row"]["p_ill"] for each in at_once]
            assert [row["path"] for row in rows] == ["sample 0", "sample 1", "sample 2", "sample 3"]
            assert rows[3]["reason"].startswith("sample 3: not an image")
            assert left_in_spool(tmp_path) == []
            assert "DOE" not in stored(tmp_path)
            with sqlite3.connect(tmp_path / "store.sqlite") as connection:
                log = connection.execute("select who, model, status, answer, input, job from audit").fetchall()
            assert [entry[:3] for entry in log] == [("local", "small", "ok")] * 6 + [("local", "small", "unsupported")]
            assert json.loads(log[0][3])["p_ill"] == rows[0]["p_ill"]
            assert log[0][4] == log[3][4]  # the hash of the same bytes
            assert len({entry[4] for entry in log}) == 4
            assert [entry[5] for entry in log] == [None] * 3 + [job["id"]] * 4

    run(steps())


def test_names_and_files_are_kept_if_that_is_asked_for(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path, keep=True, keep_names=True) as server:
            job = await server.job((NAME, png(10)))
            assert job["predictions"][0]["row"]["path"] == NAME
            assert len(left_in_spool(tmp_path)) == 1
            await server.predict((NAME, png(10)))
            assert len(left_in_spool(tmp_path)) == 2

    run(steps())


def test_held_files_are_deleted_with_their_job(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            job = await server.job(("a.png", png(10)), hold=True)
            sample = await server.service.files(job["id"], 0)
            assert sample.paths[0].read_bytes() == png(10)
            assert (await server.client.delete(f"/v1/jobs/{job['id']}")).status_code == 204
            assert left_in_spool(tmp_path) == []
            after = (await server.client.get(f"/v1/jobs/{job['id']}")).json()
            assert (after["state"], after["done"]) == ("done", 1)

    run(steps())


def test_a_model_without_a_run_says_why_there_is_no_map(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            job = await server.job(("a.png", png(10)), explain=True)
            (prediction,) = job["predictions"]
            assert prediction["row"]["status"] == "ok"
            assert prediction["maps"] == []
            assert "--maps" in prediction["note"]
            assert (await server.client.get("/v1/models/small")).json()["explains"] is False

    run(steps())


class Gate:
    """Holds tasks back until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, work: Any) -> None:
        assert self.open.wait(30)


def test_a_full_queue_is_503_with_a_time_to_come_back(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        gate = Gate()
        async with serving(small_model, tmp_path, before=gate, queue=2) as server:
            waiting = [asyncio.create_task(server.predict(("a.png", png(value)))) for value in (1, 2, 3)]
            while server.service.pool.waiting("now") < 2 or not server.processes[0].tasks:
                await asyncio.sleep(0.01)
            refused = await server.predict(("a.png", png(4)))
            assert refused.status_code == 503
            assert refused.json()["status"] == "busy"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            gate.open.set()
            assert [response.status_code for response in await asyncio.gather(*waiting)] == [200] * 3
            assert "softfree_refused_total 1.0" in (await server.client.get("/metrics")).text
            assert left_in_spool(tmp_path) == []

    run(steps())


def test_a_queue_that_is_too_slow_for_the_time_limit_is_503(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        gate = Gate()
        async with serving(small_model, tmp_path, before=gate, time_limit=20.0) as server:
            server.service.pool._seconds["small"] = 4.0
            first = [asyncio.create_task(server.predict(("a.png", png(value)))) for value in (1, 2, 3)]
            while server.service.pool.waiting("now") < 2:
                await asyncio.sleep(0.01)
            refused = await server.predict(("a.png", png(4)))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "4")
            gate.open.set()
            assert [response.status_code for response in await asyncio.gather(*first)] == [200] * 3

    run(steps())


def test_small_samples_that_wait_share_a_batch(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        gate = Gate()
        async with serving(small_model, tmp_path, before=gate) as server:
            server.service.pool._seconds["small"] = 0.001
            first = asyncio.create_task(server.predict(("a.png", png(1))))
            while not server.processes[0].tasks:
                await asyncio.sleep(0.01)
            rest = [asyncio.create_task(server.predict(("a.png", png(value)))) for value in range(2, 8)]
            while server.service.pool.waiting("now") < 6:
                await asyncio.sleep(0.01)
            gate.open.set()
            answers = [response.json()["predictions"][0]["row"] for response in await asyncio.gather(first, *rest)]
            tasks = server.processes[0].tasks
            assert [len(task.samples) for task in tasks] == [1, 6]
            alone = predict(small_model, [str(path) for path in write(tmp_path, 1, 2, 7)])
            assert [answers[0]["p_ill"], answers[1]["p_ill"], answers[6]["p_ill"]] == pytest.approx(
                [row["p_ill"] for row in alone], abs=1e-6
            )

    run(steps())


def write(folder: Path, *values: int) -> list[Path]:
    paths = [folder / f"{value}.png" for value in values]
    for path, value in zip(paths, values, strict=True):
        path.write_bytes(png(value))
    return paths


def test_a_slow_sample_is_504_and_ends_its_worker(small_model: Path, tmp_path: Path) -> None:
    def slow(work: Any) -> None:
        if isinstance(work, PredictWork) and work.samples[0].name == "slow.png":
            raise Expired

    async def steps() -> None:
        async with serving(small_model, tmp_path, before=slow) as server:
            late = await server.predict(("slow.png", png(1)))
            assert late.status_code == 504
            assert late.json()["status"] == "timed_out"
            assert (await server.predict(("a.png", png(1)))).status_code == 200
            server.processes[0]._alive = False
            assert (await server.predict(("a.png", png(1)))).status_code == 200

    run(steps())


def test_a_sample_that_kills_workers_is_422_and_its_neighbors_are_answered(small_model: Path, tmp_path: Path) -> None:
    def bomb(work: Any) -> None:
        if any(sample.name == "bomb.png" for sample in work.samples):
            raise Died(-6)

    async def steps() -> None:
        async with serving(small_model, tmp_path, before=bomb) as server:
            response = await server.predict(("a.png", png(1)), ("bomb.png", png(2)), ("c.png", png(3)))
            rows = [each["row"] for each in response.json()["predictions"]]
            assert [row["status"] for row in rows] == ["ok", "crashed", "ok"]
            assert rows[1]["reason"].endswith("memory, or crashed it (SIGABRT)")
            alone = await server.predict(("bomb.png", png(2)))
            assert alone.status_code == 422
            assert alone.json()["status"] == "crashed"

    run(steps())


def test_large_images_wait_for_their_own_turn(small_model: Path, tmp_path: Path) -> None:
    """They are deferred once, never share a batch, and leave a worker to the small ones."""
    from dataclasses import replace

    from tests.small_model import ABOUT, write_model

    from softfree_runtime.preprocessing.image import NumpyImagePreprocessing

    native = replace(ABOUT, preprocessing=NumpyImagePreprocessing(32, "native", 1, (0.5,), (0.25,)))
    model = write_model(tmp_path / "native.onnx", native)
    gate = Gate()

    def hold_large(work: Any) -> None:
        if not work.may_defer:
            gate(work)

    async def steps() -> None:
        async with serving(model, tmp_path, workers=2, before=hold_large) as server:
            large = [asyncio.create_task(server.predict(("l.png", png(9, (1100, 1100))))) for _ in range(2)]
            while not any(not task.may_defer for process in server.processes for task in process.tasks):
                await asyncio.sleep(0.01)
            assert (await asyncio.wait_for(server.predict(("a.png", png(1))), 10)).status_code == 200
            gate.open.set()
            assert [response.status_code for response in await asyncio.gather(*large)] == [200, 200]
            finals = [task for process in server.processes for task in process.tasks if not task.may_defer]
            assert [len(task.samples) for task in finals] == [1, 1]

    run(steps())


def test_uploads_beyond_the_limits(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path, max_upload=0.01, max_pixels=100 * 100) as server:
            big = await server.predict(("a.bin", b"0" * 20_000))
            assert big.status_code == 413
            assert big.json()["status"] == "too_large"

            async def drops() -> Any:  # without saying how much will come
                for _ in range(40):
                    yield b"0" * 1000

            kind = {"content-type": "multipart/form-data; boundary=b"}
            unsaid = await server.client.post("/v1/models/small/predict", content=drops(), headers=kind)
            assert unsaid.status_code in (400, 413)
            bomb = await server.predict(("a.png", png(1, (200, 200))))
            assert bomb.status_code == 422
            assert bomb.json() == {
                "error": "a.png: 200 x 200 pixels, more than 10000; cut it into regions or reduce it",
                "status": "too_large",
            }
            assert left_in_spool(tmp_path) == []

    run(steps())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/etc/passwd", 403),
        ("{root}/../secret.png", 403),
        ("{root}/link.png", 403),
        ("relative.png", 403),
        ("{root}/\0.png", 403),
        ("{root}/none.png", 404),
        ("{root}/a.png", 200),
    ],
)
def test_paths(small_model: Path, tmp_path: Path, path: str, status: int) -> None:
    root = tmp_path / "allowed"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(png(1))
    (root / "a.png").write_bytes(png(1))
    (root / "link.png").symlink_to(tmp_path / "secret.png")

    async def steps() -> None:
        async with serving(small_model, tmp_path, allow=[root]) as server:
            body = {"paths": [path.format(root=root)]}
            response = await server.client.post("/v1/models/small/predict", json=body)
            assert response.status_code == status, response.text
            assert left_in_spool(tmp_path) == []
            assert (root / "a.png").exists()

    run(steps())


def test_files_that_are_named_as_one_sample_are_read_alone(
    small_model: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Not with their neighbors in the allowed folder: further slices of the series, and another series."""
    root = tmp_path / "allowed"
    root.mkdir()
    slices = [shutil.copy(path, root) for path in sorted((shared_data / "dicom" / "series_t1").iterdir())[:5]]
    shutil.copy(shared_data / "dicom" / "pydicom" / "CT_small.dcm", root)
    read: list[int] = []

    def as_volume(work: Any) -> None:
        _, source, _ = source_of(work.samples[0], SimpleNamespace(kind="volume"))  # type: ignore[arg-type]
        read.append(read_volume(source).voxels.shape[1])  # type: ignore[arg-type]

    async def steps() -> None:
        async with serving(small_model, tmp_path, allow=[root], before=as_volume) as server:
            for named in (slices[:3], slices[:1]):
                body = {"paths": list(map(str, named))}
                await server.client.post("/v1/models/small/predict", json=body, params={"case": True})
                assert left_in_spool(tmp_path) == []

    run(steps())
    assert read == [3, 1]
    assert len(list(root.iterdir())) == 6


def test_an_answer_names_the_file_that_gave_it(small_model: Path, tmp_path: Path) -> None:
    """A job waits, and the server is started again with another file of the same name."""
    newer = write_model(tmp_path / "newer.onnx", replace(ABOUT, temperature=0.2))

    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            await server.service._jobs.stop()  # the server ends before it comes to the job
            given = (await server.predict(("a.png", png()), wait=False)).json()
            assert given["model"]["hash"] == server.service.models["small"].version.hash
        async with serving(newer, tmp_path) as server:
            await server.service.wait(given["id"], 30)
            found = (await server.client.get(f"/v1/jobs/{given['id']}")).json()
            now = (await server.predict(("a.png", png()))).json()
        assert now["model"]["hash"] != given["model"]["hash"]
        assert found["model"] == found["predictions"][0]["model"] == now["model"] == now["predictions"][0]["model"]
        assert found["predictions"][0]["row"]["p_ill"] == now["predictions"][0]["row"]["p_ill"]

    run(steps())


def test_no_paths_without_allowed_folders(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            response = await server.client.post("/v1/models/small/predict", json={"paths": ["/etc/passwd"]})
            assert response.status_code == 403
            assert "--allow" in response.json()["error"]

    run(steps())


@pytest.mark.parametrize(
    ("name", "shown"),
    [("../../etc/cron.d/x.png", "x.png"), ("..\\..\\x.png", "x.png"), ("a\r\nSet-Cookie: b.png", None), ("", "file")],
)
def test_names_of_files_are_never_paths_or_headers(
    small_model: Path, tmp_path: Path, name: str, shown: str | None
) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            quoted = name.replace("\r\n", "%0D%0A")
            body = (f'--b\r\nContent-Disposition: form-data; name="files"; filename="{quoted}"\r\n\r\n'.encode()
                    + png(1) + b"\r\n--b--\r\n")  # fmt: skip
            kind = {"content-type": "multipart/form-data; boundary=b"}
            response = await server.client.post("/v1/models/small/predict", content=body, headers=kind)
            assert response.status_code == 200, response.text
            assert "set-cookie" not in response.headers
            if shown is not None:
                assert response.json()["predictions"][0]["row"]["path"] == shown
            assert sorted(path.name for path in tmp_path.iterdir() if "store" not in path.name) == ["spool"]

    run(steps())


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc'],
)
def test_damaged_forms(small_model: Path, tmp_path: Path, body: bytes) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            kind = {"content-type": "multipart/form-data; boundary=b"}
            response = await server.client.post("/v1/models/small/predict", content=body, headers=kind)
            assert response.status_code == 400
            assert left_in_spool(tmp_path) == []

    run(steps())


def test_every_response_has_the_headers_that_keep_browsers_safe(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            for path in ("/v1/models", "/v1/none", "/health/live", "/v1/jobs/0", "/v1/openapi.json"):
                headers = (await server.client.get(path)).headers
                policy = headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe-inline" not in policy
                assert headers["x-content-type-options"] == "nosniff"
                assert "access-control-allow-origin" not in headers

    run(steps())


def test_what_there_is(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            get = server.client.get
            (model,) = (await get("/v1/models")).json()
            assert (model["name"], model["kind"], model["classes"]) == ("small", "image", ["well", "ill"])
            assert model["thresholds"] == {"ill": 0.4}
            assert (await get("/v1/models/none")).status_code == 404
            assert (await get("/v1/models/small/card")).headers["content-type"].startswith("text/markdown")
            assert (await get("/health/ready")).status_code == 200
            assert (await get("/v1/jobs/none")).json() == {"error": "no such job", "status": "not_found"}
            server.service.accepting = False
            assert (await get("/health/ready")).status_code == 503
            assert (await server.predict(("a.png", png(1)))).json()["status"] == "stopping"
            server.service.accepting = True

    run(steps())


def test_jobs_are_the_clients_own(small_model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("page aaaaaaaaaaaaaaaa\nother bbbbbbbbbbbbbbbb\n")
    tokens.chmod(0o600)

    async def steps() -> None:
        sign = {"Authorization": "Bearer aaaaaaaaaaaaaaaa"}
        async with serving(small_model, tmp_path, token_file=tokens, headers=sign) as server:
            job = await server.job(("a.png", png(1)))
            other = {"Authorization": "Bearer bbbbbbbbbbbbbbbb"}
            path = f"/v1/jobs/{job['id']}"
            assert (await server.client.get(path, headers=other)).status_code == 404
            assert (await server.client.delete(path, headers=other)).status_code == 404
            assert (await server.client.get(path)).status_code == 200
            assert "aaaaaaaaaaaaaaaa" not in stored(tmp_path)

    run(steps())


async def _cookie_of(server: Serving, token: str) -> httpx.Response:
    return await server.client.post("/v1/session", json={"token": token})


def test_a_browser_signs_on(small_model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("page aaaaaaaaaaaaaaaa\n")

    async def steps() -> None:
        async with serving(small_model, tmp_path, token_file=tokens) as server:
            assert (await server.client.get("/v1/models")).status_code == 401
            assert (await _cookie_of(server, "wrong")).status_code == 401
            signed = await _cookie_of(server, "aaaaaaaaaaaaaaaa")
            cookie = signed.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert (await server.client.get("/v1/models")).status_code == 200
            other = {"Origin": "https://evil.example"}
            files = [("files", ("a.png", png(1)))]
            assert (await server.client.post("/v1/models/small/predict", files=files, headers=other)).status_code == 403
            own = {"Origin": "http://127.0.0.1"}
            assert (await server.client.post("/v1/models/small/predict", files=files, headers=own)).status_code == 200
            value = server.client.cookies["softfree_session"]
            server.client.cookies.clear()
            server.client.cookies.set("softfree_session", value[:-2] + ("AA" if value[-2:] != "AA" else "BB"))
            assert (await server.client.get("/v1/models")).status_code == 401

    run(steps())


def test_a_client_that_goes_away_and_a_full_disk(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:

            async def part() -> Any:
                yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + png(1)
                raise ClientDisconnect  # which comes out where the server reads on

            kind = {"content-type": "multipart/form-data; boundary=b"}
            gone = await server.client.post("/v1/models/small/predict", content=part(), headers=kind)
            assert (gone.status_code, gone.json()["error"]) == (400, "the client went away")
            assert left_in_spool(tmp_path) == []

            def full() -> Any:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("softfree.serving.uploads.sha256", full)  # when the file has been made
            refused = await server.predict(("a.png", png(1)))
            assert (refused.status_code, refused.json()["status"]) == (503, "disk")
            assert left_in_spool(tmp_path) == []

    run(steps())


def test_a_store_that_is_away_is_503(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:

            def away(*arguments: Any) -> None:
                raise sql.exc.OperationalError("insert DOE", {}, Exception("away"))

            monkeypatch.setattr(server.service.store, "add_records", away)
            monkeypatch.setattr(server.service.store, "add_job", away)
            for query in ({}, {"wait": False}):
                response = await server.predict(("a.png", png(1)), **query)
                assert (response.status_code, response.json()["status"]) == (503, "store")
                assert "DOE" not in response.text
                assert left_in_spool(tmp_path) == []

    run(steps())


def test_only_samples_that_a_worker_has_begun_with_count_as_tried(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        gate = Gate()
        async with serving(small_model, tmp_path, before=gate) as server:
            server.service.pool._seconds["small"] = 1.0  # no batches
            response = await server.predict(*[("a.png", png(value)) for value in range(5)], wait=False)
            while not server.processes[0].tasks:
                await asyncio.sleep(0.01)
            rows = server.service.store.unanswered(response.json()["id"])
            assert sorted(row["attempts"] for row in rows) == [0, 0, 0, 0, 1]
            gate.open.set()
            assert (await server.service.wait(response.json()["id"], 30)).state == "done"

    run(steps())


def test_a_sample_whose_worker_was_killed_from_outside_is_not_at_fault(small_model: Path, tmp_path: Path) -> None:
    deaths = [Died(-9, from_outside=True)] * 6

    def killed(work: Any) -> None:
        if deaths:
            raise deaths.pop()

    async def steps() -> None:
        async with serving(small_model, tmp_path, before=killed) as server:
            assert (await server.predict(("a.png", png(1)))).status_code == 200
            assert deaths == []

    run(steps())


def test_a_job_goes_on_when_the_database_is_back(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps() -> None:
        monkeypatch.setattr("softfree.serving.jobs._AGAIN", 0.05)
        async with serving(small_model, tmp_path) as server:
            real, away = server.service.store.answer, [1, 2]

            def answer(*arguments: Any, **named: Any) -> bool:
                if away:
                    raise sql.exc.OperationalError("update", {}, Exception(away.pop()))
                return real(*arguments, **named)

            monkeypatch.setattr(server.service.store, "answer", answer)
            job = await server.job(("a.png", png(1)), ("b.png", png(2)))
            assert (job["state"], job["done"], away) == ("done", 2, [])

    run(steps())
