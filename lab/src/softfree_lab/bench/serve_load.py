"""Clients of ``softfree-lab bench serve``: they send files as fast as they are answered, and check each answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from softfree_lab.bench.serve_process import ServerProcess

TOLERANCE = 1e-6
"""Largest difference of a probability from that of softfree predict."""
_LONGEST_WAIT = 1.0
"""Seconds that a client waits after status 503, if it is told to wait longer."""


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: Time that it lasted.
        latencies: Time of each answered request in seconds, by file.
        finished: When each was answered, in seconds from the start.
        statuses: Number of responses by status.
        wrong: Number of answers that were not those of softfree predict.
        memory: Bytes of the server and its workers, once a second.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    memory: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies in seconds."""
        return float(np.percentile(self.latencies, percent))

    def rate_within(self, first: float, last: float) -> float:
        """Return answered requests per second within a part of the time, in fractions of it."""
        low, high = first * self.seconds, last * self.seconds
        return sum(low <= time < high for time in self.finished) / (high - low)

    def growth(self) -> float:
        """Return the relative growth of memory from the second tenth to the last, medians of both."""
        tenth = max(1, len(self.memory) // 10)
        early, late = np.median(self.memory[tenth : 2 * tenth + 1]), np.median(self.memory[-tenth:])
        return float(late / early - 1)


def run_load(
    server: ServerProcess,
    files: Mapping[str, bytes],
    expected: Mapping[str, float],
    *,
    clients: int,
    seconds: float,
    beside: Sequence[str] = (),
) -> Load:
    """Let clients send files for some time.

    Args:
        server: The server.
        files: Content of each file by name.
        expected: Probability of each good file; others are expected to be refused.
        clients: Number of clients at once, each with one request at a time.
        seconds: For how long.
        beside: Files that one more client sends all the while, whose answers are not counted.
    """
    return asyncio.run(_load(server, files, expected, clients, seconds, beside))


async def _load(
    server: ServerProcess,
    files: Mapping[str, bytes],
    expected: Mapping[str, float],
    clients: int,
    seconds: float,
    beside: Sequence[str],
) -> Load:
    load, names = Load(), [name for name in files if name not in beside]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.address, timeout=300, limits=limits) as client:
        began = time.perf_counter()

        async def send(number: int) -> None:
            turn = number
            while time.perf_counter() - began < seconds:
                name = names[turn % len(names)]
                turn += clients
                await _one(client, name, files[name], expected.get(name), load, began)

        async def disturb() -> None:
            other = Load()
            while time.perf_counter() - began < seconds:
                for name in beside:
                    await _one(client, name, files[name], expected.get(name), other, began)

        async def watch() -> None:
            while True:
                load.memory.append(await asyncio.to_thread(server.memory))
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        disturbing = [asyncio.create_task(disturb())] if beside else []
        await asyncio.gather(*(send(number) for number in range(clients)))
        load.seconds = time.perf_counter() - began
        await asyncio.gather(*disturbing)
        watching.cancel()
    return load


async def _one(
    client: httpx.AsyncClient, name: str, content: bytes, expected: float | None, load: Load, began: float
) -> None:
    start = time.perf_counter()
    response = await client.post("/v1/models/bench/predict", files={"files": (name, content)})
    load.statuses[response.status_code] += 1
    if response.status_code == 503:
        await asyncio.sleep(min(_LONGEST_WAIT, float(response.headers.get("retry-after", 1))))
        return
    now = time.perf_counter()
    load.latencies.append(now - start)
    load.finished.append(now - began)
    if expected is None:
        load.wrong += response.status_code != 422
    elif response.status_code != 200:
        load.wrong += 1
    else:
        (answer,) = response.json()["predictions"]
        load.wrong += abs(answer["row"]["p_with"] - expected) > TOLERANCE
