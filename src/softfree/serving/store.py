"""Jobs and the audit log in a database."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Boolean, Column, Connection, Float, Integer, MetaData, String, Table, Text

from softfree.serving.records import State
from softfree_runtime.core.errors import UserError

TABLES = MetaData()
"""All tables; modules of the server add theirs when they are imported, before the store is opened."""
LEASE = 20.0
"""Seconds without a sign of life after which another server takes over a job."""
ATTEMPTS = 10
"""How often a worker may have begun with a sample when its server ended, before the sample is given up."""

jobs = Table(
    "jobs",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("version", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("who", String(200), nullable=False),
    Column("entrance", String(32), nullable=False),
    Column("explain", Boolean, nullable=False),
    Column("hold", Boolean, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("total", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("owner", String(120)),
    Column("lease", Float, nullable=False, default=0.0),
    Column("error", Text, nullable=False, default=""),
)
samples = Table(
    "samples",
    TABLES,
    Column("job", String(32), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("files", Text),  # within the spool; none when they are deleted
    Column("about", Text),  # frame, views, times, variables and name; none when it is answered
    Column("digest", String(64), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("answered", Boolean, nullable=False, default=False),
    Column("answer", Text),
    Column("delete_at", Float),
)
audit = Table(
    "audit",
    TABLES,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("entrance", String(32), nullable=False),
    Column("model", String(200), nullable=False),
    Column("version", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("input", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("answer", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("job", String(32)),
    Column("number", Integer),
    sql.UniqueConstraint("job", "number"),  # no sample of a job is answered twice
)


class Store:
    """The database; its methods block, so that they are called in threads.

    Attributes:
        engine: For the tables of other parts of the server.
        owner: The name of this server in the database.
    """

    def __init__(self, url: str) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.engine = _engine(url)
        for attempt in range(5):
            try:
                TABLES.create_all(self.engine)
                break
            except sql.exc.DBAPIError as error:
                if attempt == 4:
                    raise UserError(f"--store {_shown(url)} cannot be used: {_line(error)}") from None
                time.sleep(0.1 + 0.3 * random.random())  # another server makes the same tables

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction."""
        with self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def add_job(self, job: Mapping[str, Any], each: Sequence[Mapping[str, Any]]) -> str:
        """Store a job and its samples; return its id."""
        job_id, now = secrets.token_hex(16), time.time()
        with self.begin() as connection:
            row = {"id": job_id, "state": "queued", "total": len(each), "created": now, "updated": now, "lease": 0.0}
            connection.execute(jobs.insert(), row | dict(job))
            connection.execute(
                samples.insert(), [{"job": job_id, "number": number, **own} for number, own in enumerate(each)]
            )
        return job_id

    def claim(self, models: Collection[str]) -> dict[str, Any] | None:
        """Take over the oldest job of these models that no living server works on; None without any."""
        now = time.time()
        with self.begin() as connection:
            free = (jobs.c.state == "queued") | ((jobs.c.state == "running") & (jobs.c.lease < now))
            query = sql.select(jobs).where(free, jobs.c.model.in_(models)).order_by(jobs.c.created).limit(1)
            found = connection.execute(query).mappings().first()
            if found is None:
                return None
            mine = {"state": "running", "owner": self.owner, "lease": now + LEASE, "updated": now}
            taken = connection.execute(jobs.update().where(jobs.c.id == found["id"], free).values(mine)).rowcount
            return dict(found) | mine if taken == 1 else None

    def keep_leases(self) -> None:
        """Give a sign of life for all jobs of this server."""
        with self.begin() as connection:
            own = (jobs.c.owner == self.owner) & (jobs.c.state == "running")
            connection.execute(jobs.update().where(own).values(lease=time.time() + LEASE))

    def take_over(self) -> int:
        """Free the jobs of servers of this machine that have ended; return how many."""
        host, pid, _ = self.owner.rsplit(":", 2)
        with self.begin() as connection:
            running = connection.execute(sql.select(jobs.c.owner).where(jobs.c.state == "running").distinct())
            owners = [owner for (owner,) in running if owner and owner != self.owner]
            dead = [owner for owner in owners if owner.rsplit(":", 2)[0] == host
                    and (owner.rsplit(":", 2)[1] == pid or not _lives(int(owner.rsplit(":", 2)[1])))]  # fmt: skip
            free = jobs.update().where(jobs.c.owner.in_(dead), jobs.c.state == "running")
            return connection.execute(free.values(state="queued", owner=None)).rowcount

    def release(self) -> None:
        """Give back all jobs of this server, at its end; their samples were not at fault."""
        with self.begin() as connection:
            own = (jobs.c.owner == self.owner) & (jobs.c.state == "running")
            ids = sql.select(jobs.c.id).where(own)
            waiting = samples.update().where(samples.c.job.in_(ids), ~samples.c.answered, samples.c.attempts > 0)
            connection.execute(waiting.values(attempts=samples.c.attempts - 1))
            connection.execute(jobs.update().where(own).values(state="queued", owner=None))

    def give_back(self, job_id: str) -> None:
        """Give back one job of this server."""
        with self.begin() as connection:
            mine = (jobs.c.id == job_id) & (jobs.c.owner == self.owner) & (jobs.c.state == "running")
            connection.execute(jobs.update().where(mine).values(state="queued", owner=None))

    def unanswered(self, job_id: str) -> list[dict[str, Any]]:
        """Return the samples of a job that have no answer."""
        with self.begin() as connection:
            order = (samples.c.attempts, samples.c.number)  # those that may be at fault come last
            query = sql.select(samples).where(samples.c.job == job_id, ~samples.c.answered).order_by(*order)
            return [dict(row) for row in connection.execute(query).mappings()]

    def begin_sample(self, job_id: str, number: int) -> bool:
        """Note that a sample is under way; return whether this server may still do it."""
        with self.begin() as connection:
            if not self._is_mine(connection, job_id):
                return False
            one = (samples.c.job == job_id) & (samples.c.number == number) & ~samples.c.answered
            more = samples.update().where(one).values(attempts=samples.c.attempts + 1)
            return connection.execute(more).rowcount == 1

    def answer(
        self, job_id: str, number: int, answer: Mapping[str, Any], record: Mapping[str, Any], *, hold: float | None
    ) -> bool:
        """Store the answer of a sample and its record in the audit log, once.

        Args:
            job_id: The job.
            number: The sample.
            answer: The answer.
            record: Columns of the audit log.
            hold: Time at which its files are to be deleted; None if they are deleted already.

        Returns:
            Whether it was stored: not if it has an answer, or if the job was canceled or taken over.
        """
        with self.begin() as connection:
            if not self._is_mine(connection, job_id):
                return False
            one = (samples.c.job == job_id) & (samples.c.number == number) & ~samples.c.answered
            values = {"answered": True, "answer": json.dumps(answer), "about": None, "delete_at": hold}
            values |= {} if hold is not None else {"files": None}
            if connection.execute(samples.update().where(one).values(values)).rowcount != 1:
                return False
            connection.execute(audit.insert(), {**record, "job": job_id, "number": number})
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(updated=time.time()))
            return True

    def _is_mine(self, connection: Connection, job_id: str) -> bool:
        query = sql.select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.owner == self.owner, jobs.c.state == "running")
        if connection.dialect.name != "sqlite":  # whose transactions are one after the other
            query = query.with_for_update()
        return connection.execute(query).first() is not None

    def end_job(self, job_id: str, state: State, error: str = "") -> None:
        """Note that a job of this server has ended."""
        with self.begin() as connection:
            mine = (jobs.c.id == job_id) & (jobs.c.owner == self.owner) & (jobs.c.state == "running")
            connection.execute(jobs.update().where(mine).values(state=state, error=error, updated=time.time()))

    def cancel(self, job_id: str) -> list[str]:
        """Cancel a job that has not ended; return the files of all its samples, and forget them."""
        with self.begin() as connection:
            waiting = jobs.c.state.in_(("queued", "running"))
            change = jobs.update().where(jobs.c.id == job_id, waiting)
            connection.execute(change.values(state="canceled", updated=time.time()))
            own = (samples.c.job == job_id) & samples.c.files.is_not(None)
            files = [row.files for row in connection.execute(sql.select(samples.c.files).where(own))]
            connection.execute(samples.update().where(samples.c.job == job_id).values(files=None, about=None))
            return [name for entry in files for name in json.loads(entry)]

    def job(self, job_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Return a job and its samples; None if there is no such job."""
        with self.begin() as connection:
            found = connection.execute(sql.select(jobs).where(jobs.c.id == job_id)).mappings().first()
            if found is None:
                return None
            query = sql.select(samples).where(samples.c.job == job_id).order_by(samples.c.number)
            return dict(found), [dict(row) for row in connection.execute(query).mappings()]

    def waiting(self) -> int:
        """Return how many samples of jobs have no answer."""
        with self.begin() as connection:
            ids = sql.select(jobs.c.id).where(jobs.c.state.in_(("queued", "running")))
            query = sql.select(sql.func.count()).where(samples.c.job.in_(ids), ~samples.c.answered)
            return int(connection.execute(query).scalar_one())

    def add_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add to the audit log."""
        with self.begin() as connection:
            connection.execute(audit.insert(), [{"job": None, "number": None, **record} for record in records])

    def forget_files(self, now: float) -> list[str]:
        """Return the files that were held until ``now``, and forget them."""
        with self.begin() as connection:
            due = samples.c.answered & samples.c.files.is_not(None) & (samples.c.delete_at < now)
            rows = connection.execute(sql.select(samples.c.files).where(due)).all()
            if rows:
                connection.execute(samples.update().where(due).values(files=None))
            return [name for row in rows for name in json.loads(row.files)]

    def files(self) -> list[str]:
        """Return all files that samples wait with or are held."""
        with self.begin() as connection:
            rows = connection.execute(sql.select(samples.c.files).where(samples.c.files.is_not(None)))
            return [name for row in rows for name in json.loads(row.files)]


def _engine(url: str) -> sql.Engine:
    if "://" in url:
        try:
            return sql.create_engine(url, pool_pre_ping=True)
        except (sql.exc.ArgumentError, ModuleNotFoundError) as error:
            raise UserError(f"--store {_shown(url)} cannot be used: {_line(error)}; expected a file for SQLite, or an"
                            " address such as postgresql+psycopg://host/name") from None  # fmt: skip
    path = Path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise UserError(f"--store {url}: {error.strerror}; name a file that can be written") from None
    engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin below
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    @sql.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # no two servers read the same and then both write

    return engine


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _shown(url: str) -> str:
    """Return an address without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else url


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
