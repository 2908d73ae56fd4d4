"""The store: jobs that are done once, by whichever server; and the spool."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from softfree.serving import store as module
from softfree.serving.spool import Spool
from softfree.serving.store import ATTEMPTS, TABLES, Store, audit, jobs, samples
from softfree_runtime.core.errors import UserError

JOB = {"model": "m", "version": "1", "hash": "h", "who": "w", "entrance": "http", "explain": False, "hold": False}
RECORD = {"time": 0.0, "who": "w", "entrance": "http", "model": "m", "version": "1", "hash": "h", "input": "d",
          "status": "ok", "answer": "{}", "seconds": 1.0}  # fmt: skip


def each(count: int) -> list[dict[str, Any]]:
    return [{"files": f'["{number}/files/a"]', "about": "{}", "digest": "d"} for number in range(count)]


@pytest.fixture(params=["sqlite", "postgresql"])
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Store, Store]]:
    """Two servers on one store; on PostgreSQL if SOFTFREE_TEST_POSTGRESQL is the address of a database for tests."""
    url = str(tmp_path / "store.sqlite")
    if request.param == "postgresql":
        url = os.environ.get("SOFTFREE_TEST_POSTGRESQL", "")
        if not url:
            pytest.skip("no database for tests: set SOFTFREE_TEST_POSTGRESQL to its address")
        TABLES.drop_all(sql.create_engine(url))
    first, second = Store(url), Store(url)
    second.owner = "another-machine:1:0"
    yield first, second
    first.close()
    second.close()


def test_two_servers_share_the_jobs(two: tuple[Store, Store]) -> None:
    first, second = two
    names = {first.add_job(JOB, each(1)) for _ in range(4)}
    claimed = [server.claim(["m"]) for server in (first, second, first, second)]
    assert {job["id"] for job in claimed if job} == names
    assert first.claim(["m"]) is None
    assert second.claim(["other"]) is None


def test_an_answer_counts_once_and_only_from_the_owner(two: tuple[Store, Store]) -> None:
    first, second = two
    job = first.add_job(JOB, each(2))
    assert first.claim(["m"])
    assert first.begin_sample(job, 0)
    assert not second.begin_sample(job, 0)
    assert not second.answer(job, 0, {"a": 2}, RECORD, hold=None)
    assert first.answer(job, 0, {"a": 1}, RECORD, hold=None)
    assert not first.answer(job, 0, {"a": 3}, RECORD, hold=None)
    _, rows = second.job(job) or ({}, [])
    assert [row["answer"] for row in rows] == ['{"a": 1}', None]
    assert rows[0]["files"] is None
    with first.begin() as connection:
        assert connection.execute(sql.select(sql.func.count()).select_from(audit)).scalar_one() == 1
        with pytest.raises(sql.exc.IntegrityError):  # the last line of defense
            connection.execute(audit.insert(), {**RECORD, "job": job, "number": 0})


def test_a_job_whose_server_is_silent_is_taken_over(two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two
    job = second.add_job(JOB, each(1))
    assert second.claim(["m"])
    assert first.claim(["m"]) is None
    later = time.time() + module.LEASE + 1
    monkeypatch.setattr(module.time, "time", lambda: later)
    taken = first.claim(["m"])
    assert taken is not None
    assert taken["id"] == job
    assert not second.answer(job, 0, {}, RECORD, hold=None)


def test_a_dead_server_of_this_machine_is_replaced_at_once(two: tuple[Store, Store]) -> None:
    first, second = two
    host = first.owner.rsplit(":", 2)[0]
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    second.owner = f"{host}:{pid}:dead"
    job = second.add_job(JOB, each(1))
    assert second.claim(["m"])
    assert first.take_over() == 1
    taken = first.claim(["m"])
    assert taken is not None
    assert taken["id"] == job
    second.owner = f"{host}:1:alive"
    assert second.take_over() == 0  # the first lives


def test_what_a_server_gives_back_at_its_end(two: tuple[Store, Store]) -> None:
    first, second = two
    job = first.add_job(JOB, each(2))
    assert first.claim(["m"])
    first.begin_sample(job, 0)
    first.release()
    assert second.claim(["m"])
    assert [(row["number"], row["attempts"]) for row in second.unanswered(job)] == [(0, 0), (1, 0)]
    assert ATTEMPTS > 1


def test_a_canceled_job_gets_no_answers(two: tuple[Store, Store]) -> None:
    first, _ = two
    job = first.add_job(JOB, each(2))
    assert first.claim(["m"])
    assert first.cancel(job) == ["0/files/a", "1/files/a"]
    assert not first.answer(job, 0, {}, RECORD, hold=None)
    first.end_job(job, "done")
    assert (first.job(job) or ({},))[0]["state"] == "canceled"


def test_files_are_forgotten_when_their_time_has_come(two: tuple[Store, Store]) -> None:
    first, _ = two
    job = first.add_job(JOB, each(2))
    assert first.claim(["m"])
    assert first.answer(job, 0, {}, RECORD, hold=100.0)
    assert first.forget_files(99.0) == []
    assert first.forget_files(101.0) == ["0/files/a"]
    assert first.files() == ["1/files/a"]
    assert first.waiting() == 1


def test_stores_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url, says in {
        str(tmp_path / "file" / "store.sqlite"): "--store",
        "nothing://host/name": "postgresql",
        "postgresql+nothing://user:hidden@host/name": "@host/name cannot be used",
    }.items():
        with pytest.raises(UserError, match=says) as caught:
            Store(url)
        assert "hidden" not in str(caught.value)


def test_the_database_is_the_owners_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    assert (tmp_path / "store.sqlite").stat().st_mode & 0o077 == 0
    with store.begin() as connection:
        assert connection.execute(sql.select(jobs)).all() == []
        assert connection.execute(sql.select(samples)).all() == []


def test_the_spool_keeps_endings_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    folder = spool.new_folder()
    header, voxels = spool.new_file(folder, "DOE.hdr"), spool.new_file(folder, "doe.IMG")
    assert header.with_suffix("") == voxels.with_suffix("")
    assert spool.new_file(folder, "x.nii.gz").name.endswith(".nii.gz")
    assert "." not in spool.new_file(folder, "x.exe").name
    assert folder.stat().st_mode & 0o077 == 0
    header.write_text("a")
    elsewhere = tmp_path / "other.txt"
    elsewhere.write_text("stays")
    link = spool.link(elsewhere)
    spool.remove([header, link, elsewhere])
    assert list(spool.folder.iterdir()) == []
    assert elsewhere.read_text() == "stays"


def test_orphans_of_the_spool_are_removed_unless_they_are_known(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    orphan, known = spool.new_folder().parent, spool.new_folder().parent
    assert spool.remove_old(60, []) == 0
    for folder in (orphan, known):
        for path in (folder / "files", folder):
            os.utime(path, (0, 0))
    assert spool.remove_old(60, [known.name]) == 1
    assert list(spool.folder.iterdir()) == [known]


def test_many_servers_at_once_do_each_job_once(two: tuple[Store, Store]) -> None:
    first, second = two
    second.owner = first.owner.replace(":", ":1", 1)
    names = {first.add_job(JOB, each(1)) for _ in range(24)}
    done: list[str] = []

    def work(server: Store) -> None:
        while job := server.claim(["m"]):
            assert server.begin_sample(job["id"], 0)
            if server.answer(job["id"], 0, {}, RECORD, hold=None):
                done.append(job["id"])
            server.end_job(job["id"], "done")

    threads = [threading.Thread(target=work, args=(server,)) for server in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(names)
    assert first.waiting() == 0
