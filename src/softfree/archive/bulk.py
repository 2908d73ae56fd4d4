"""Bulk work: a task is done with each input of an archive, in blocks, in a folder; the command again goes on."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from softfree import __version__
from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList, ranks_of, write_inputs
from softfree.archive.listing import Wanted, list_inputs
from softfree.archive.local import InlineEngine, LocalEngine
from softfree.archive.progress import Follower
from softfree.archive.remote import is_remote
from softfree.archive.task import Resources, Task
from softfree.archive.worker import Block
from softfree.core.locks import locked
from softfree.core.options import BulkOptions
from softfree.core.shards import parse_shard
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import TABLES, NamedSource
from softfree_runtime.sources.table_text import read_bytes

FIRST = 1000  # inputs after which an archive that cannot be read is noticed
HOPELESS = 0.9
BEGIN = ".begin.lock"


@dataclass(frozen=True)
class Given:
    """What the command was given.

    Attributes:
        inputs: Files, folders, tables and addresses.
        out: The folder.
        frame: Frame of multi-frame files.
        image_root: Folder that the paths of tables start from.
        progress: Whether to show a bar.
    """

    inputs: Sequence[str]
    out: Path
    frame: int | None = None
    image_root: Path | None = None
    progress: bool = True


class Engine(Protocol):
    """Handles blocks."""

    def run(self, blocks: Sequence[Block], may_go_on: Callable[[], bool]) -> None:
        """Handle blocks until none is left, or ``may_go_on`` says no."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How far the work in a folder is after a command.

    Attributes:
        folder: The folder.
        count: Number of inputs.
        done: Number of inputs with a row.
        failed: Number of inputs of this command without a result.
        summary: Of all rows, if every input has one.
    """

    folder: ArchiveFolder
    count: int
    done: int
    failed: int
    summary: Mapping[str, Any] | None


def do_all(task: Task, given: Given, options: BulkOptions) -> int:
    """Do a task with all inputs, in a folder; return the exit status: 0, or 1 if some inputs failed or are left.

    Raises:
        UserError: Impossible options, a folder that was begun with others, or not one input could be used.
    """
    outcome = Bulk(task, given, options).run()
    folder, summary, done = outcome.folder, outcome.summary, task.words.done
    if summary is None:
        others = f"; shards other than {options.shard} have the rest" if parse_shard(options.shard)[1] > 1 else ""
        print(
            f"{outcome.done:,} of {outcome.count:,} inputs have a row in {folder.parts}{others}; the same command goes"
            " on",
            file=sys.stderr,
        )
        return 1 if outcome.failed else 0
    failed = summary["rows"] - summary["statuses"].get("ok", 0)
    if failed == summary["rows"]:
        raise UserError(f"none of the {failed:,} inputs could be {done}; the reasons are in {folder.results}")
    print(
        f"{summary['rows'] - failed:,} of {summary['rows']:,} {done}; written to {folder.results}; summary:"
        f" {folder.page}",
        file=sys.stderr,
    )
    return 1 if failed else 0


class Bulk:
    """One command in the folder."""

    def __init__(self, task: Task, given: Given, options: BulkOptions) -> None:
        """Check the options.

        Raises:
            UserError: They are impossible.
        """
        self.task, self.given, self.options = task, given, options
        self.shard, self.shards = parse_shard(options.shard)
        self.end = _end(options.until)
        self.block = task.block if options.block is None else options.block
        self.resources = Resources.of(options)
        if self.block < 1:
            raise UserError(f"--block {self.block}: expected at least 1")
        if options.ray_address is not None and options.engine != "ray":
            raise UserError("--ray-address is for --engine ray")
        self.folder = ArchiveFolder(given.out, task.results)

    def run(self) -> Outcome:
        """Do what is missing.

        Raises:
            UserError: The folder was begun with something else, another process is working in it, or the task cannot be
                done at all.
        """
        with ExitStack() as own:
            with self._lock(BEGIN, "beginning", wait=True):
                own.enter_context(self._lock(self._lock_of(self.shard), "working"))
                allowed = [self._lock_of(shard) for shard in range(self.shards)]
                self._refuse_others("working with another number of shards", allowed)
                self._begin()
            return self._go_on()

    def _begin(self) -> None:
        samples, folder = self.task.samples(), self.folder
        identity = self._identity(lists_given=samples is None)
        if self.task.starts_anew:
            self._list_again(samples)
        elif folder.check_identity(identity):
            return
        else:
            self._list(folder.inputs, samples)
        folder.write_identity(identity | self.task.facts())

    def _list(self, path: Path, samples: list[NamedSource] | None) -> None:
        self.folder.parts.mkdir(parents=True, exist_ok=True)
        order, given = self.options.order, self.given
        if samples is None:
            kind, variables = self.task.inputs_of()
            keeps = self.task.keeps_columns
            list_inputs(path, Wanted(given.inputs, given.frame, given.image_root, kind, variables, order, keeps))
            return
        ranks = range(len(samples)) if order is None else ranks_of(samples, order, given.inputs)
        write_inputs(path, [samples[rank] for rank in ranks])

    def _list_again(self, samples: list[NamedSource] | None) -> None:
        """List the inputs anew; if they are others than before, the rows of the ones before are removed."""
        folder = self.folder
        new = folder.root / ".inputs.new.parquet"
        try:
            self._list(new, samples)
            if folder.inputs.is_file() and new.read_bytes() == folder.inputs.read_bytes():
                return
            self._refuse_others("working", [self._lock_of(self.shard)])  # whose rows would belong to other inputs
            for path in folder.parts.glob("*.parquet"):
                path.unlink()
            new.replace(folder.inputs)
        finally:
            new.unlink(missing_ok=True)

    def _go_on(self) -> Outcome:
        folder, options = self.folder, self.options
        count = len(InputList(folder.inputs))
        wanted = min(count, options.limit) if options.limit is not None else count
        blocks = [block for number, block in enumerate(_blocks(wanted, self.block))
                  if number % self.shards == self.shard]  # fmt: skip
        if self.task.starts_anew:
            folder.remove_parts_of((block.first, block.last) for block in blocks)
        done = folder.done(count)
        missing = [piece for block in blocks for piece in _missing(block, done)]
        own = sum(map(len, blocks))
        name = "progress" if self.shards == 1 else f"progress-{self.shard}-of-{self.shards}"
        begun = own - sum(map(len, missing))
        title, shown = self.task.words.title, self.given.progress
        with Follower(folder, own, begun, title=title, shown=shown, name=name) as follower:

            def may_go_on() -> bool:
                if not options.keep_going:
                    _check_hopeful(follower, self.task, folder)
                return self.end is None or datetime.now() < self.end

            try:
                self._engine(follower).run(missing, may_go_on)
            except UserError:
                if self.shards == 1 and not folder.part_ranges():  # wrong options, perhaps: nothing has begun
                    folder.identity.unlink(missing_ok=True)
                    folder.inputs.unlink(missing_ok=True)
                raise
        done = folder.done(count)
        summary = self._finish(anew=bool(missing)) if done.all() else None
        return Outcome(folder, count, int(done.sum()), follower.failed, summary)

    def _engine(self, follower: Follower) -> Engine:
        options, root = self.options, self.folder.root
        if options.engine == "local" and self.resources.workers == 0:
            return InlineEngine(root, self.task, follower.add)
        if options.engine == "local":
            return LocalEngine(root, self.task, self.resources.workers, follower.add)
        from softfree.archive.ray_engine import RayEngine

        return RayEngine(root, self.task, options.workers, follower.add, options.ray_address)

    def _finish(self, *, anew: bool) -> Mapping[str, Any]:
        """Join the rows and summarize them, unless that was done and no row is ``anew``; return the summary."""
        from softfree.archive.summary import read_summary, write_summary

        folder, csv = self.folder, self.options.csv
        summary = None if anew or self.task.starts_anew else read_summary(folder)
        if summary is None or not folder.results.is_file() or (csv and not folder.csv.is_file()):
            with self._lock(BEGIN, "finishing", wait=True):
                folder.remove_leftovers()
                folder.write_results(csv=csv)
                self.task.finish(folder)
                summary = write_summary(folder, self.task)
        return summary

    def _identity(self, *, lists_given: bool) -> dict[str, Any]:
        """Return what the rows depend on; not the names of the inputs, which may hold those of patients.

        Args:
            lists_given: Whether the inputs are those of the command, and not those that the task lists itself.
        """
        root = self.given.image_root
        paths = [path if is_remote(path) else os.path.abspath(path) for path in self.given.inputs]
        given = "\0".join([*paths, *([] if root is None else ["", os.path.abspath(root)])])
        return {
            "task": self.task.name,
            "softfree_version": __version__,
            **self.task.identity(),
            "inputs_digest": hashlib.sha256(os.fsencode(given)).hexdigest(),
            "tables_digest": _digest_of_tables(paths) if lists_given else None,
            "frame": self.given.frame,
            "order": self.options.order,
            "block": self.block,
        }

    def _lock_of(self, shard: int) -> str:
        return ".lock" if self.shards == 1 else f".lock-{shard}-of-{self.shards}"

    def _refuse_others(self, activity: str, allowed: Collection[str]) -> None:
        """Refuse to go on while another process holds a lock that is not allowed."""
        for path in self.folder.root.glob(".lock*"):
            if path.name not in allowed:
                with self._lock(path.name, activity):
                    pass

    def _lock(self, name: str, activity: str, *, wait: bool = False) -> AbstractContextManager[None]:
        return locked(self.folder.root, activity, name=name, wait=wait)


def _digest_of_tables(paths: Sequence[str]) -> str | None:
    """Return the digest of the tables among some inputs, by whose rows these are numbered; None without tables."""
    names = [path for path in paths if Path(path).suffix.lower() in TABLES and not is_remote(path)]
    digests = [hashlib.sha256(read_bytes(Path(name))).digest() for name in names if not os.path.isdir(name)]
    return hashlib.sha256(b"".join(digests)).hexdigest() if digests else None


def _blocks(count: int, size: int) -> Iterator[Block]:
    for first in range(0, count, size):
        yield Block(first, min(first + size, count))


def _missing(block: Block, done: np.ndarray) -> Iterator[Block]:
    """Yield the pieces of a block without rows: the whole, or what single inputs of a broken block have left."""
    start = None
    for number in range(block.first, block.last + 1):
        is_open = number < block.last and not done[number]
        if is_open and start is None:
            start = number
        elif not is_open and start is not None:
            yield Block(start, number)
            start = None


def _check_hopeful(follower: Follower, task: Task, folder: ArchiveFolder) -> None:
    """Stop an archive of which nearly nothing can be read."""
    seen, failed = sum(follower.statuses.values()), follower.failed
    if FIRST <= seen < 2 * FIRST and failed >= HOPELESS * seen:
        why = ", ".join(f"{status}: {count:,}" for status, count in follower.statuses.most_common(3) if status != "ok")
        raise UserError(
            f"{failed:,} of the first {seen:,} inputs could not be {task.words.done} ({why}); their reasons are in"
            f" {folder.parts}; to go on all the same, add --keep-going"
        )


def _end(until: str | None) -> datetime | None:
    """Return the next time that ``--until`` means."""
    if until is None:
        return None
    try:
        if "T" in until or len(until) > 5:
            end = datetime.fromisoformat(until)
            return end if end.tzinfo is None else end.astimezone().replace(tzinfo=None)
        clock = datetime.strptime(until, "%H:%M")
    except (ValueError, OverflowError):  # of the year 1 in another time zone
        raise UserError(f"--until {until}: expected a time such as 07:00, or 2027-01-31T07:00") from None
    now = datetime.now()
    end = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return end if end > now else end + timedelta(days=1)
