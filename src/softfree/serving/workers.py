"""The workers and their queue: who does what next, in batches, and what happens when one of them ends."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softfree.serving.measures import Measures
from softfree.serving.process import Died, Expired, WorkerProcess
from softfree.serving.records import RenderTask, Sample, ServedModel
from softfree.serving.rows import DEFERRED
from softfree.serving.worker import ExplainWork, Predicted, PredictWork, Ready, Reply, WorkerSettings
from softfree_runtime.core.errors import UserError

log = logging.getLogger("softfree.serving")

BATCH_SECONDS = 0.1
"""A batch is not made larger than what takes this long: on a processor a batch saves nothing but the overhead."""
JOBS_WAIT = 0.5
"""Seconds by which samples of jobs let others go first."""
CRASHES, KILLS = 3, 30
"""How often a worker may end during one sample alone, by itself or killed from outside, before this is given up."""
LANES = ("now", "jobs", "large")


class Crashed(Exception):
    """A sample ended the workers that read it."""


class Withdrawn(Exception):
    """Whoever gave the sample does not want it done any longer."""


class Failed(Exception):
    """A worker could not process a sample: why, and a short code."""

    def __init__(self, reason: str, status: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(eq=False)
class Waiting:
    """Something that waits for a worker.

    Attributes:
        work: A sample with its model, to be predicted or explained, or a :class:`RenderTask`.
        model: Name of the model; empty for a rendering.
        sample: The sample; None for a rendering.
        out: Folder for maps; None without.
        lane: Which queue it waits in.
        limit: Seconds that it may take.
        on_start: Called when a worker is about to begin with it; whether it still may.
        future: Its answer.
        since: When it came.
        crashes, kills: How often it ended a worker alone.
        alone: Whether it must not share a batch.
    """

    lane: str
    limit: float
    model: str = ""
    sample: Sample | None = None
    out: Path | None = None
    task: RenderTask | None = None
    on_start: Callable[[], Awaitable[bool]] | None = None
    future: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    since: float = field(default_factory=time.monotonic)
    crashes: int = 0
    kills: int = 0
    alone: bool = False

    @property
    def turn(self) -> float:
        """Time by which it is ordered among the lanes."""
        return self.since + (JOBS_WAIT if self.lane == "jobs" else 0.0)


class Pool:
    """Worker processes behind one queue.

    Small samples, those of jobs and large ones wait in lanes of their own. A worker that is free takes what has waited
    longest; all but one worker may be busy with large samples, so that these do not block the small ones. What the page
    wants to see is drawn in a process of its own.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        workers: int | None,
        max_batch: int,
        measures: Measures,
        process: Callable[[WorkerSettings], WorkerProcess] = WorkerProcess,
    ) -> None:
        self.settings, self.max_batch, self.measures = settings, max_batch, measures
        self._new_process = process
        self._count = workers
        self._lanes: dict[str, deque[Waiting]] = {name: deque() for name in (*LANES, "render")}
        self._busy: dict[int, str] = {}
        self._seconds: dict[str, float] = {}
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[int, WorkerProcess] = {}
        self._stopping = False
        self._threads = ThreadPoolExecutor(1)

    def launch(self) -> None:
        """Start the first worker, before there is an event loop; it loads the models while this process does more."""
        self._processes[0] = self._new_process(self.settings)
        self._processes[0].launch()

    def first_ready(self) -> Ready:
        """Return what the first worker says of the models; UserError if it cannot use them."""
        ready = self._processes[0].wait_ready()
        gpus = ready.gpus
        self._count = self._count or gpus or _processors()
        self._devices = [str(number % gpus) if gpus else None for number in range(self._count)]
        return ready

    async def start(self) -> None:
        """Start the others, and give all of them work."""
        assert self._count is not None
        self._threads = ThreadPoolExecutor(self._count + 1, "worker")
        self._tasks = [asyncio.create_task(self._drive(number, LANES)) for number in range(self._count)]

    async def stop(self, seconds: float) -> None:
        """Let running tasks end, for some seconds, and end the processes."""
        self._stopping = True
        async with self._changed:
            self._changed.notify_all()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            self.kill()
            for task in late:
                task.cancel()
        for lane in self._lanes.values():
            for item in lane:
                item.future.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        """End all processes now."""
        for process in self._processes.values():
            process.kill()

    @property
    def count(self) -> int:
        """Number of workers for models."""
        return self._count or 1

    @property
    def alive(self) -> int:
        """How many of them run."""
        return sum(process.alive for number, process in self._processes.items() if number >= 0)

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes of the workers."""
        return [process.pid for process in self._processes.values() if process.pid]

    def waiting(self, lane: str | None = None) -> int:
        """Return how many samples wait, in one lane or all."""
        return sum(len(self._lanes[name]) for name in ([lane] if lane else self._lanes))

    def expected_wait(self, model: str, count: int) -> float:
        """Estimate how long the last of ``count`` more samples would wait, in seconds; 0 before the first answer."""
        return (self.waiting("now") + count) * self._seconds.get(model, 0.0) / self.count

    def seconds_to_wait(self, model: str) -> int:
        """Estimate when a full queue has room again, in seconds from 1 to 60."""
        return min(60, max(1, math.ceil(self.expected_wait(model, 0) / 2)))

    async def predict(
        self,
        model: ServedModel,
        sample: Sample,
        limit: float,
        *,
        job: bool = False,
        out: Path | None = None,
        on_start: Callable[[], Awaitable[bool]] | None = None,
    ) -> Predicted:
        """Predict a sample, and write its maps to ``out``.

        Args:
            model: The model.
            sample: The sample.
            limit: Seconds that it may take.
            job: Whether it belongs to a job, and lets others go first.
            out: Folder for its maps; None without.
            on_start: Called when a worker is about to begin with it; returns whether it still may.

        Raises:
            Withdrawn: It may not begin any longer.
            Crashed: It ended the workers that read it.
            Failed: The worker could not process it.
            Expired: It took longer than ``limit``.
        """
        is_large = out is not None or model.kind in ("slide", "bag", "volume")
        lane = "large" if is_large else "jobs" if job else "now"
        predicted = await self._put(Waiting(lane, limit, model.name, sample, out, on_start=on_start))
        if isinstance(predicted, Reply):
            raise Failed(predicted.error, predicted.status)
        assert isinstance(predicted, Predicted)
        return predicted

    async def render(self, task: RenderTask, limit: float) -> Reply:
        """Draw something for the page; exceptions as :meth:`predict`."""
        if -1 not in self._processes and not any(task.get_name() == "viewer" for task in self._tasks):
            self._tasks.append(asyncio.create_task(self._drive(-1, ("render",)), name="viewer"))
        reply = await self._put(Waiting("render", limit, task=task))
        assert isinstance(reply, Reply)
        return reply

    async def _put(self, item: Waiting) -> Any:
        async with self._changed:
            self._lanes[item.lane].append(item)
            self._changed.notify_all()
        try:
            return await item.future
        except asyncio.CancelledError:
            if self._stopping and item.future.cancelled():
                raise Expired from None
            item.future.cancel()
            raise

    def _settings(self, number: int) -> WorkerSettings:
        if number < 0:
            return replace(self.settings, models={}, maps=())
        return replace(self.settings, device=self._devices[number])

    async def _drive(self, number: int, lanes: Sequence[str]) -> None:
        """Keep a worker alive, and give it work."""
        process = self._processes.get(number)
        failures = 0
        while not self._stopping:
            if process is None or not process.alive:
                process = self._processes[number] = self._new_process(self._settings(number))
                try:
                    await self._in_thread(process.start)
                    failures = 0
                except UserError as error:  # such as no memory; the model was fine before
                    failures += 1
                    log.error("a worker cannot start: %s", error)
                    await asyncio.sleep(min(30.0, 2.0**failures))
                    process = None
                    continue
            batch = await self._next(number, lanes)
            if batch:
                try:
                    await self._do(process, batch)
                except Exception as error:  # nobody may wait for ever, and the worker goes on
                    log.exception("an error of the queue")
                    for item in batch:
                        _tell(item, Failed(f"the server failed on it ({type(error).__name__})", "failed"))
                finally:
                    self._busy.pop(number, None)
                    async with self._changed:
                        self._changed.notify_all()

    async def _next(self, number: int, lanes: Sequence[str]) -> list[Waiting]:
        """Wait for work; an empty list when the pool stops or there was only abandoned work."""
        async with self._changed:
            lane = self._lane(lanes)
            while lane is None and not self._stopping:
                await self._changed.wait()
                lane = self._lane(lanes)
            if lane is None or self._stopping:
                return []
            batch = self._take(self._lanes[lane])
            if batch:
                self._busy[number] = lane
            return batch

    def _lane(self, lanes: Sequence[str]) -> str | None:
        """Return the lane whose first has waited longest, among those that may have another worker."""
        for name in lanes:
            while self._lanes[name] and self._lanes[name][0].future.done():
                self._lanes[name].popleft()
        large = sum(lane == "large" for lane in self._busy.values())
        open_ = [name for name in lanes if self._lanes[name] and (name != "large" or large < max(1, self.count - 1))]
        return min(open_, key=lambda name: self._lanes[name][0].turn, default=None)

    def _take(self, lane: deque[Waiting]) -> list[Waiting]:
        """Take a batch: samples of one model, no more than this worker's share and than fit in a moment."""
        first = lane.popleft()
        if first.sample is None or first.out is not None or first.alone or first.lane == "large":
            return [first]
        free = max(1, self.count - len(self._busy))
        fit = math.floor(BATCH_SECONDS / self._seconds.get(first.model, BATCH_SECONDS))
        most = min(self.max_batch, max(1, fit), math.ceil((len(lane) + 1) / free))
        batch = [first]
        while lane and len(batch) < most:
            item = lane[0]
            if item.model != first.model or item.alone:
                break
            lane.popleft()
            if not item.future.done():
                batch.append(item)
        return batch

    async def _do(self, process: WorkerProcess, batch: list[Waiting]) -> None:
        """Give a worker a batch, and everyone their answer."""
        batch = [item for item in batch if await _may_begin(item)]
        if not batch:
            return
        first = batch[0]
        limit = max(item.since + item.limit for item in batch) - time.monotonic()
        if first.lane in ("jobs", "large"):
            limit = first.limit  # the time that they take, not the time that they wait
        limit = max(0.05, limit / 2 if len(batch) > 1 else limit)
        try:
            reply = await self._in_thread(
                process.ask, _work(batch), limit, lambda: all(item.future.done() for item in batch)
            )
        except Expired:
            self.measures.restarts.labels("time limit").inc()
            self._again_alone(batch, Expired())
            return
        except Died as death:
            if self._stopping:
                self._again_alone(batch, Expired())
                return
            log.warning("a worker ended during a task (%s)", death)
            self.measures.restarts.labels(str(death)).inc()
            for item in batch:
                alone = len(batch) == 1
                item.kills += alone and death.from_outside
                item.crashes += alone and not death.from_outside
            self._again_alone(batch, Crashed(str(death)), only_if_given_up=True)
            return
        if reply.trace:
            log.error("a task failed: %s", reply.trace)
        self._answer(batch, reply)

    def _again_alone(self, batch: list[Waiting], error: Exception, *, only_if_given_up: bool = False) -> None:
        """Put what a worker did not answer back to the front, each alone; or tell it the error."""
        for item in reversed(batch):
            given_up = item.crashes >= CRASHES or item.kills >= KILLS
            if given_up or (len(batch) == 1 and not only_if_given_up):
                _tell(item, error)
            elif not item.future.done():
                item.alone = True
                self._lanes[item.lane].appendleft(item)

    def _answer(self, batch: list[Waiting], reply: Reply) -> None:
        first = batch[0]
        if first.sample is None:
            _tell(first, reply)
            return
        if reply.value is None:
            if len(batch) > 1:
                self._again_alone(batch, Expired(), only_if_given_up=True)
            else:
                _tell(first, reply)
            return
        predicted: Predicted = reply.value
        if first.out is None and first.lane != "large":
            each, known = max(1e-4, reply.seconds / len(batch)), self._seconds.get(first.model)
            self._seconds[first.model] = each if known is None else 0.8 * known + 0.2 * each
        for item, row, steps in zip(batch, predicted.rows, predicted.steps, strict=True):
            if row["status"] == DEFERRED:
                item.lane, item.alone = "large", True
                self._lanes["large"].append(item)
            else:
                _tell(item, replace(predicted, rows=[row], steps=[steps]))

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _work(batch: Sequence[Waiting]) -> object:
    first = batch[0]
    if first.sample is None:
        return first.task
    if first.out is not None:
        return ExplainWork(first.model, first.sample, first.out)
    samples = tuple(item.sample for item in batch if item.sample is not None)
    return PredictWork(first.model, samples, may_defer=first.lane != "large")


async def _may_begin(item: Waiting) -> bool:
    """Ask whoever gave a sample, once, whether a worker may begin with it."""
    begin, item.on_start = item.on_start, None
    try:
        allowed = begin is None or await begin()
    except Exception as error:
        _tell(item, error)
        return False
    if not allowed:
        _tell(item, Withdrawn())
    return allowed


def _tell(item: Waiting, answer: object) -> None:
    if item.future.done():
        return
    if isinstance(answer, Exception):
        item.future.set_exception(answer)
    else:
        item.future.set_result(answer)


def _processors() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of_each(free: int | None, workers: int | None) -> int | None:
    """Return an equal part of the free memory for each worker and one more, for the server, in bytes."""
    return None if free is None else free // ((workers or _processors()) + 1)


def served_models(ready: Ready) -> Mapping[str, ServedModel]:
    """Return the models of a worker by name."""
    return {model.name: model for model in ready.models}
