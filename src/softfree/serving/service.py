"""What all entrances call: HTTP, the DICOM node and DICOMweb."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import DBAPIError

from softfree.serving.audit import AuditLog, record_of
from softfree.serving.errors import Busy, Conflict, NotFound, TimedOut, Unreadable
from softfree.serving.jobs import JobRunner, job_state, to_store
from softfree.serving.options import ServeOptions
from softfree.serving.process import Expired
from softfree.serving.records import Answer, JobState, RenderResult, RenderTask, Sample, ServedModel
from softfree.serving.rows import failed_row
from softfree.serving.spool import Spool
from softfree.serving.store import Store
from softfree.serving.worker import Predicted
from softfree.serving.workers import Crashed, Failed, Pool

if TYPE_CHECKING:
    from softfree.serving.room import Room

log = logging.getLogger("softfree.serving")

T = TypeVar("T")
JOB_QUEUE = 100
"""Samples of jobs that may wait, as a multiple of ``--queue``: they wait on disk."""
RENDER_QUEUE = 256
_SHARE = 0.5
"""Part of the time limit that a request may be expected to wait; estimates are off."""
_POLL = 0.2
_FORGOTTEN = 3600.0
"""Seconds after which files that no sample knows are deleted: those of requests that a killed server was reading."""


class Service:
    """Predictions, jobs and renderings.

    Attributes:
        options: The options of the server.
        models: Served models by name.
        store: Jobs and the audit log.
        spool: Uploaded files.
        pool: The workers.
        measures: Numbers for Prometheus.
        room: The reading room, if there is one.
    """

    def __init__(
        self, options: ServeOptions, models: Mapping[str, ServedModel], store: Store, spool: Spool, pool: Pool
    ) -> None:
        self.options, self.models, self.store, self.spool, self.pool = options, models, store, spool, pool
        self.measures = pool.measures
        self.accepting = False
        self.room: Room | None = None
        self._database = ThreadPoolExecutor(1 if store.engine.dialect.name == "sqlite" else 4, "store")
        self._audit = AuditLog(self)
        self._jobs = JobRunner(self)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers, take up the jobs of servers that have ended, and accept samples."""
        await self.pool.start()
        taken = await self.in_store(self.store.take_over)
        if taken:
            log.info("%d jobs of a server that has ended go on", taken)
        self._tasks = [asyncio.create_task(work()) for work in (self._audit.run, self._jobs.run, self._clean)]
        self.accepting = True

    async def stop(self, seconds: float = 20.0) -> None:
        """Accept nothing more, let running samples end for some seconds, and leave waiting jobs in the store."""
        self.accepting = False
        await self._jobs.stop()
        await self.pool.stop(seconds)
        await self._jobs.settle()
        await self.in_store(self.store.release)
        await self._audit.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._database.shutdown()
        self.store.close()

    async def in_store(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call a blocking method of the store in a thread.

        Raises:
            Busy: The database is away.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._database, lambda: function(*arguments, **named)
            )
        except DBAPIError as error:
            log.error("the store cannot be used: %s", type(error).__name__)  # its message would quote values
            raise Busy("the store of this server is away; try again later", status="store", retry_after=10) from None

    def model(self, name: str) -> ServedModel:
        """Return a model by its name; NotFound without it."""
        if name not in self.models:
            raise NotFound(f"no model of this name; this server has {', '.join(self.models)}")
        return self.models[name]

    def refuse_if_busy(self, model: str, count: int = 1) -> None:
        """Refuse a request of so many samples when the queue is full, or too slow for the time limit."""
        if not self.accepting:
            raise Busy("the server is stopping; try again in a moment", status="stopping", retry_after=5)
        if self.pool.waiting("now") + count > self.options.queue:
            self.measures.refused.inc()
            raise Busy(
                f"more than {self.options.queue} samples would wait; try again later",
                retry_after=self.pool.seconds_to_wait(model),
            )
        if self.pool.expected_wait(model, count) > _SHARE * self.options.time_limit and self.pool.waiting("now"):
            self.measures.refused.inc()
            raise Busy(
                f"there would be no answer within {self.options.time_limit:g} seconds; try again later",
                retry_after=self.pool.seconds_to_wait(model),
            )

    async def predict(self, model: str, sample: Sample, *, who: str = "", entrance: str = "http") -> Answer:
        """Predict a small sample now; its files are the caller's to delete.

        Raises:
            NotFound: No such model.
            Busy: The queue is full.
            TimedOut: It took longer than the time limit.
            Unreadable: The sample gives no answer; the message is the reason of its row.
        """
        self.refuse_if_busy(model)
        answer = await self.answer(model, sample, who=who, entrance=entrance)
        if (status := answer.row["status"]) != "ok":
            raise Unreadable(answer.row["reason"], status=status)
        return answer

    async def answer(self, model: str, sample: Sample, *, who: str = "", entrance: str = "http") -> Answer:
        """Return the row of a small sample, also of one that cannot be read; whoever calls it has asked for room."""
        served = self.model(model)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.options.time_limit):
                predicted = await self.predicted(served, sample, self.options.time_limit)
        except (TimeoutError, Expired):
            if not self.accepting:
                raise Busy("the server is stopping", status="stopping", retry_after=5) from None
            raise TimedOut(f"no answer within {self.options.time_limit:g} seconds", retry_after=5) from None
        answer = self._answer(served, predicted, time.monotonic() - started)
        await self._audit.add(record_of(answer, sample, who, entrance))
        return answer

    async def predicted(self, model: ServedModel, sample: Sample, limit: float, **how: Any) -> Predicted:
        """Return what the workers say of a sample; whatever happens to it becomes a row.

        Raises:
            Expired: It took longer than the limit, or the server stops.
        """
        try:
            return await self.pool.predict(model, sample, limit, **how)
        except Crashed as error:
            reason = f"{sample.name}: reading it or the model used up a worker's memory, or crashed it ({error})"
            return Predicted([failed_row(sample, model, reason, "crashed")], [[]])
        except Failed as error:
            return Predicted([failed_row(sample, model, f"{sample.name}: {error}", error.status)], [[]])

    def _answer(self, model: ServedModel, predicted: Predicted, seconds: float) -> Answer:
        row = predicted.rows[0]
        self.measures.samples.labels(model.name, row["status"]).inc()
        self.measures.seconds.labels(model.name).observe(seconds)
        return Answer(row, predicted.steps[0], model.version, seconds, predicted.files, predicted.note)

    async def answer_of_job(
        self, model: ServedModel, sample: Sample, *, explain: bool, on_start: Callable[[], Awaitable[bool]]
    ) -> Answer:
        """Return the answer for a sample of a job; ``on_start`` as for :meth:`Pool.predict`.

        Raises:
            Withdrawn: ``on_start`` said no.
            Expired: The server stops.
        """
        started = time.monotonic()
        out = self.spool.maps_of(sample.paths) if explain and model.explains else None
        limit = self.options.job_time_limit
        try:
            predicted = await self.predicted(model, sample, limit, job=True, out=out, on_start=on_start)
        except Expired:
            if not self.accepting:
                raise
            reason = f"{sample.name}: no answer within {limit:g} seconds"
            predicted = Predicted([failed_row(sample, model, reason, "timed_out")], [[]])
        if explain and not model.explains:
            note = "this model makes no maps: serve its run, or name the run with --maps"
            predicted = replace(predicted, note=note)
        return self._answer(model, predicted, time.monotonic() - started)

    async def submit(
        self,
        model: str,
        samples: Sequence[Sample],
        *,
        explain: bool = False,
        who: str,
        hold: bool = False,
        entrance: str = "http",
    ) -> str:
        """Store a job, and return its id once it is stored; the files must lie in the spool, which takes them over.

        Args:
            model: Name of the model.
            samples: At least one.
            explain: Make maps, which are held like the files.
            who: The client.
            hold: Keep the files for ``--hold`` minutes after the answer, for the page.
            entrance: Where it came from, for the audit log.

        Raises:
            NotFound: No such model.
            Busy: Too many samples wait.
        """
        version = self.model(model).version
        if not self.accepting:
            raise Busy("the server is stopping; try again in a moment", status="stopping", retry_after=5)
        most = JOB_QUEUE * self.options.queue
        if await self.in_store(self.store.waiting) + len(samples) > most:
            self.measures.refused.inc()
            raise Busy(f"more than {most} samples would wait; try again later", retry_after=60)
        job = {"model": model, "version": version.version, "hash": version.hash, "who": who, "entrance": entrance,
               "explain": explain, "hold": hold}  # fmt: skip
        each = [to_store(sample, self.spool, with_name=self.options.keep_names) for sample in samples]
        job_id: str = await self.in_store(self.store.add_job, job, each)
        self._jobs.wake()
        return job_id

    async def job(self, job_id: str) -> JobState:
        """Return the state of a job and the answers so far.

        Raises:
            NotFound: No such job.
        """
        found = await self.in_store(self.store.job, job_id)
        if found is None:
            raise NotFound("no such job")
        return job_state(*found)

    async def wait(self, job_id: str, seconds: float | None = None) -> JobState:
        """Return the state of a job when it has ended, or after some seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            state = await self.job(job_id)
            if state.state not in ("queued", "running") or (until is not None and time.monotonic() >= until):
                return state
            await asyncio.sleep(_POLL)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job and delete its files; samples that are answered stay answered."""
        names = await self.in_store(self.store.cancel, job_id)
        self._jobs.cancel(job_id)
        self.spool.remove(self.spool.absolute(name) for name in names)

    async def render(self, task: RenderTask, limit: float | None = None) -> RenderResult:
        """Run a task of the page in a worker.

        Args:
            task: The task.
            limit: Seconds that it may wait and take; None for those of a request.

        Raises:
            NotFound: No such slice or tile.
            Unreadable, Busy, TimedOut: As :meth:`predict`.
        """
        if not self.accepting or self.pool.waiting("render") >= RENDER_QUEUE:
            raise Busy("too many images are being drawn; try again in a moment", retry_after=2)
        limit = self.options.time_limit if limit is None else limit
        try:
            async with asyncio.timeout(limit):
                reply = await self.pool.render(task, limit)
        except (TimeoutError, Expired):
            raise TimedOut(f"not drawn within {limit:g} seconds") from None
        except Crashed as error:
            raise Unreadable(f"drawing it used up a worker's memory, or crashed it ({error})") from None
        if reply.status == NotFound.status:
            raise NotFound(reply.error)
        if reply.value is None:
            raise Unreadable(reply.error, status=reply.status)
        result: RenderResult = reply.value
        return result

    async def files(self, job_id: str, number: int) -> Sample:
        """Return the files of a sample of a job that waits or is held; for the page.

        Raises:
            NotFound: No such sample.
            Conflict: Its files are deleted.
        """
        found = await self.in_store(self.store.job, job_id)
        if found is None or not 0 <= number < len(found[1]):
            raise NotFound("no such sample")
        sample = self._jobs.sample(found[1][number])
        if sample is None:
            raise Conflict("the files of this sample are deleted; upload it again", status="deleted")
        return sample

    async def _clean(self) -> None:
        """Delete files whose time has come."""
        while True:
            try:
                names = await self.in_store(self.store.forget_files, time.time())
                if not self.options.keep:
                    self.spool.remove(self.spool.absolute(name) for name in names)
                    known = {name.split("/")[0] for name in await self.in_store(self.store.files)}
                    await asyncio.to_thread(self.spool.remove_old, _FORGOTTEN, known)
            except Exception as error:  # a database that is away for a while
                log.error("files could not be deleted: %s", type(error).__name__)
            await asyncio.sleep(15)
