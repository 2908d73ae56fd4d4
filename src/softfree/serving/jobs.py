"""Jobs: taken from the store, done sample by sample, and put back when the server stops."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from softfree.serving.audit import record_of
from softfree.serving.process import Expired
from softfree.serving.records import Answer, JobState, ModelVersion, Sample
from softfree.serving.rows import failed_row
from softfree.serving.spool import Spool
from softfree.serving.store import ATTEMPTS, LEASE
from softfree.serving.workers import Withdrawn

if TYPE_CHECKING:
    from softfree.serving.service import Service

log = logging.getLogger("softfree.serving")

AT_ONCE = 8
"""Jobs of this server that run at once."""
SAMPLES_AT_ONCE = 32
"""Samples of one job that wait for workers at once."""
_AGAIN = 2.0
"""Seconds until a job that failed is begun again."""
_LOOK = 2.0
"""Seconds between two looks for jobs of other servers that have ended."""


class JobRunner:
    """Does jobs until it is stopped."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: dict[str, asyncio.Task[None]] = {}
        self._some = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look for a job now."""
        self._some.set()

    def cancel(self, job_id: str) -> None:
        """Stop working on a job."""
        if task := self._running.get(job_id):
            task.cancel()

    async def stop(self) -> None:
        """Take no more jobs and samples."""
        self._stopping = True
        self._some.set()

    async def settle(self) -> None:
        """Wait until answers that have come are stored."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=5)

    async def run(self) -> None:
        """Take jobs as they come."""
        kept = asyncio.create_task(self._keep_leases())
        try:
            while not self._stopping:
                self._some.clear()
                if len(self._running) >= AT_ONCE or not await self._take():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._some.wait(), _LOOK)
        finally:
            kept.cancel()

    async def _take(self) -> bool:
        store = self._service.store
        try:
            job = await self._service.in_store(store.claim, list(self._service.models))
        except Exception as error:  # a database that is away for a while
            log.error("no job could be taken: %s", type(error).__name__)
            return False
        if job is None:
            return False
        task = asyncio.create_task(self._do(job))
        self._running[job["id"]] = task
        task.add_done_callback(lambda done: self._ended(job["id"], done))
        return True

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        self._some.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job stopped (%s)", type(error).__name__)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 4)
            try:
                await self._service.in_store(self._service.store.keep_leases)
                await self._service.in_store(self._service.store.take_over)
            except Exception as error:
                log.error("leases could not be kept: %s", type(error).__name__)

    async def _do(self, job: Mapping[str, Any]) -> None:
        """Work on a job; if that fails, such as without a database, it is begun again a little later."""
        try:
            await self._work(job)
        except Exception as error:
            log.error("a job was interrupted (%s); it goes on soon", type(error).__name__)
            while not self._stopping:
                await asyncio.sleep(_AGAIN)
                with suppress(Exception):
                    await self._service.in_store(self._service.store.give_back, job["id"])
                    return

    async def _work(self, job: Mapping[str, Any]) -> None:
        """Answer the samples of a job that have no answer yet."""
        store = self._service.store
        waiting = list(reversed(await self._service.in_store(store.unanswered, job["id"])))

        async def work() -> None:
            while waiting and not self._stopping:
                await self._answer(job, waiting.pop())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(SAMPLES_AT_ONCE, len(waiting))):
                group.create_task(work())
        if self._stopping:
            return
        state = await self._service.job(job["id"])
        if state.done == state.total:
            failed = [answer for answer in state.answers if answer is not None and answer.row["status"] != "ok"]
            error = f"none of the {state.total} samples could be read" if len(failed) == state.total else ""
            await self._service.in_store(store.end_job, job["id"], "failed" if error else "done", error)

    async def _answer(self, job: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Answer a sample, store the answer once, and delete its files."""
        service, store = self._service, self._service.store
        model = service.models[job["model"]]
        sample = self.sample(row)
        if sample is None:
            return
        if row["attempts"] >= ATTEMPTS:
            reason = f"{sample.name}: the server ended {row['attempts']} times while it worked on it"
            answer = Answer(failed_row(sample, model, reason, "crashed"), [], model.version, 0.0)
        else:

            async def begin() -> bool:  # a sample that waits for a worker is not at fault if the server ends
                begun: bool = await service.in_store(store.begin_sample, job["id"], row["number"])
                return begun

            try:
                answer = await service.answer_of_job(model, sample, explain=bool(job["explain"]), on_start=begin)
            except (Expired, Withdrawn):
                return  # the server stops, and the sample stays in the store; or the job is no longer this server's
        keep = service.options.keep or job["hold"] or answer.files
        until = time.time() + 60 * service.options.hold if keep else None
        stored = await service.in_store(
            store.answer, job["id"], row["number"], to_json(answer),
            record_of(answer, sample, job["who"], job["entrance"]), hold=until,
        )  # fmt: skip
        if stored and not keep:
            await asyncio.to_thread(service.spool.remove, sample.paths)

    def sample(self, row: Mapping[str, Any]) -> Sample | None:
        """Return a sample as it is stored; None if its files are deleted."""
        if row["files"] is None:
            return None
        paths = tuple(map(self._service.spool.absolute, json.loads(row["files"])))
        about = json.loads(row["about"] or "{}")
        for name in ("views", "times"):
            if about.get(name) is not None:
                about[name] = tuple(about[name])
        return Sample(paths, digest=row["digest"], **({"name": f"sample {row['number']}"} | about))


def to_store(sample: Sample, spool: Spool, *, with_name: bool) -> dict[str, Any]:
    """Return a sample as columns of the store; the name of its file only if it is asked for."""
    about: dict[str, Any] = {
        "frame": sample.frame,
        "views": sample.views,
        "times": sample.times,
        "variables": None if sample.variables is None else dict(sample.variables),
        "case": sample.case,
    }
    about |= {"name": sample.name} if with_name else {}
    files = json.dumps([spool.relative(path) for path in sample.paths])
    return {"files": files, "about": json.dumps(about), "digest": sample.digest}


def to_json(answer: Answer) -> dict[str, Any]:
    """Return an answer for the store and for clients."""
    return asdict(answer)


def job_state(job: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> JobState:
    """Return the state of a job from its rows in the store."""
    answers = tuple(None if row["answer"] is None else _answer_of(json.loads(row["answer"])) for row in rows)
    given = ModelVersion(job["model"], job["version"], job["hash"])  # its file may be replaced while the job waits
    return JobState(
        job["id"],
        next((answer.model for answer in answers if answer is not None), given),
        job["state"],
        sum(answer is not None for answer in answers),
        job["total"],
        answers,
        bool(job["explain"]),
        job["error"],
        job["who"],
    )


def _answer_of(stored: Mapping[str, Any]) -> Answer:
    model, files = ModelVersion(**stored["model"]), tuple(stored["files"])
    return Answer(stored["row"], stored["steps"], model, stored["seconds"], files, stored["note"])
