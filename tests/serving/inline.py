"""A server within the test's own process: its workers are threads that do what the processes would."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from softfree.serving.app import create_app
from softfree.serving.measures import Measures
from softfree.serving.options import ServeOptions
from softfree.serving.process import WorkerProcess
from softfree.serving.service import Service
from softfree.serving.spool import Spool
from softfree.serving.store import Store
from softfree.serving.worker import Ready, Reply, WorkerSettings, _Worker
from softfree.serving.workers import Pool, served_models

ADDRESS = "http://127.0.0.1"


class InlineProcess(WorkerProcess):
    """A worker without a process; ``before`` is called with each task first."""

    before: Callable[[Any], None] | None = None

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.tasks: list[Any] = []
        self._alive = True

    def launch(self) -> None:
        self._worker = _Worker(self.settings)

    def wait_ready(self) -> Ready:
        return Ready(tuple(model.served for model in self._worker.models.values()))

    @property
    def pid(self) -> int | None:
        return None

    @property
    def alive(self) -> bool:
        return self._alive

    def ask(self, work: object, seconds: float, is_abandoned: Callable[[], bool]) -> Reply:
        self.tasks.append(work)
        if self.before is not None:
            self.before(work)
        return self._worker.answer(work)

    def kill(self) -> None:
        self._alive = False


@dataclass
class Serving:
    """A running server and a client of it."""

    service: Service
    client: httpx.AsyncClient
    processes: list[InlineProcess]

    async def predict(self, *files: tuple[str, bytes], **query: Any) -> httpx.Response:
        name = next(iter(self.service.models))
        uploads = [("files", file) for file in files]
        return await self.client.post(f"/v1/models/{name}/predict", files=uploads, params=query)

    async def job(self, *files: tuple[str, bytes], **query: Any) -> dict[str, Any]:
        """Give a job, and wait for its end."""
        response = await self.predict(*files, **({"wait": False} | query))
        assert response.status_code == 202, response.text
        await self.service.wait(response.json()["id"], 30)
        found: dict[str, Any] = (await self.client.get(response.headers["location"])).json()
        return found


@asynccontextmanager
async def serving(
    model: Path,
    folder: Path,
    *,
    workers: int = 1,
    before: Callable[[Any], None] | None = None,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Serving]:
    """Serve a model as ``small``; files lie in ``folder``."""
    given = ServeOptions(**({"store": str(folder / "store.sqlite"), "workers": workers} | options))
    processes: list[InlineProcess] = []

    def process(settings: WorkerSettings) -> InlineProcess:
        made = InlineProcess(settings)
        made.before = before
        processes.append(made)
        return made

    settings = WorkerSettings({"small": model}, tuple(given.maps), max_pixels=given.max_pixels)
    pool = Pool(settings, workers, given.max_batch, Measures(), process)
    pool.launch()
    models = served_models(pool.first_ready())
    service = Service(given, models, Store(given.store), Spool(folder / "spool"), pool)
    app = create_app(service)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=ADDRESS, headers=headers, timeout=60) as client,
    ):
        yield Serving(service, client, processes)


def png(value: int = 90, shape: tuple[int, int] = (40, 48)) -> bytes:
    """Return a PNG of one value, with a corner of another."""
    pixels = np.full(shape, value, np.uint8)
    pixels[:8, :8] = 255 - value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
