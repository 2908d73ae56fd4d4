"""The audit log: who asked which model what and when, and what it said; no names, no paths."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from softfree.serving.records import Answer, Sample

if TYPE_CHECKING:
    from softfree.serving.service import Service

_UNNAMED = ("path", "reason", "case_id")
"""Columns of a row that may name a file or a patient."""


def record_of(answer: Answer, sample: Sample, who: str, entrance: str) -> dict[str, Any]:
    """Return an entry of the log for an answer."""
    row = {name: value for name, value in answer.row.items() if name not in _UNNAMED}
    return {
        "time": time.time(),
        "who": who,
        "entrance": entrance,
        "model": answer.model.name,
        "version": answer.model.version,
        "hash": answer.model.hash,
        "input": sample.digest,
        "status": row["status"],
        "answer": json.dumps(row),
        "seconds": answer.seconds,
    }


class AuditLog:
    """Writes entries in groups, each group in one transaction; nobody gets an answer that is not logged."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._some = asyncio.Event()

    async def add(self, record: dict[str, Any]) -> None:
        """Return when the entry is written."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, written))
        self._some.set()
        await written

    async def run(self) -> None:
        """Write whatever comes."""
        while True:
            await self._some.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        group, self._waiting = self._waiting, []
        self._some.clear()
        if not group:
            return
        try:
            await self._service.in_store(self._service.store.add_records, [record for record, _ in group])
        except Exception as error:  # told to everyone who waits
            for _, written in group:
                if not written.done():
                    written.set_exception(error)
            return
        for _, written in group:
            if not written.done():
                written.set_result(None)
