"""``softfree predict RUN INPUTS --out FOLDER``: predictions of an archive, in blocks; the command again goes on."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from filelock import FileLock, Timeout

from softfree import __version__
from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList, in_order, write_inputs
from softfree.archive.local import LocalEngine
from softfree.archive.options import ArchiveOptions
from softfree.archive.predictor import PredictorSettings
from softfree.archive.progress import Follower
from softfree.archive.remote import addresses_of_table, is_remote, list_remote
from softfree.archive.worker import Block
from softfree.core.shards import parse_shard
from softfree.data.inputs import find_inputs
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import variables_of
from softfree_runtime.sources.inputs import TABLES, NamedSource

FIRST = 1000  # inputs after which an archive that cannot be read is noticed
HOPELESS = 0.9


class Engine(Protocol):
    """Predicts blocks."""

    def run(self, blocks: Sequence[Block], may_go_on: Callable[[], bool]) -> None:
        """Predict blocks until none is left, or ``may_go_on`` says no."""
        ...


def predict_archive(model: str, inputs: Sequence[str], options: ArchiveOptions) -> int:
    """Predict all inputs, in a folder; return the exit status: 0, or 1 if some inputs failed or are left.

    Args:
        model: A run directory, a study, or an exported ONNX file.
        inputs: Files, folders and tables.
        options: All settings; ``out`` is the folder.

    Raises:
        UserError: Impossible options, or a folder that was begun with others.
    """
    shard, shards = parse_shard(options.shard)
    end = _end(options.until)
    if options.block < 1 or (options.workers is not None and options.workers < 1):
        raise UserError("--block and --workers: expected at least 1")
    folder = ArchiveFolder(options.out)
    settings = _settings(model, options)
    identity = _identity(settings, inputs, options)
    with _lock(options.out / ".begin.lock", wait=True, what="beginning"):
        if not folder.check_identity(identity):
            _list_inputs(folder, settings, inputs, options)
            folder.write_identity(identity)
    own = ".lock" if shards == 1 else f".lock-{shard}-of-{shards}"
    with _lock(options.out / own, wait=False, what="predicting"):
        return _predict(folder, settings, options, shard, shards, end)


def _predict(
    folder: ArchiveFolder,
    settings: PredictorSettings,
    options: ArchiveOptions,
    shard: int,
    shards: int,
    end: datetime | None,
) -> int:
    count = len(InputList(folder.inputs))
    done = folder.done(count)
    wanted = min(count, options.limit) if options.limit is not None else count
    blocks = [block for number, block in enumerate(_blocks(wanted, options.block)) if number % shards == shard]
    own = sum(map(len, blocks))
    missing = [piece for block in blocks for piece in _missing(block, done)]
    name = "progress" if shards == 1 else f"progress-{shard}-of-{shards}"
    shown = options.progress
    with Follower(folder, own, own - sum(map(len, missing)), shown=shown, name=name) as follower:

        def may_go_on() -> bool:
            if not options.keep_going:
                _check_hopeful(follower, options.out)
            return end is None or datetime.now() < end

        _engine(folder, settings, options, follower).run(missing, may_go_on)
    done = folder.done(count)
    if done.all():
        return _finish(folder, settings, options)
    others = f"; shards other than {options.shard} have the rest" if shards > 1 else ""
    print(
        f"{int(done.sum()):,} of {count:,} inputs have a row in {folder.parts}{others}; the same command goes on",
        file=sys.stderr,
    )
    return 1 if follower.failed else 0


def _engine(folder: ArchiveFolder, settings: PredictorSettings, options: ArchiveOptions, follower: Follower) -> Engine:
    if options.engine == "local":
        if options.ray_address is not None:
            raise UserError("--ray-address is for --engine ray")
        return LocalEngine(folder.root, settings, _workers(options), follower.add)
    from softfree.archive.ray_engine import RayEngine

    return RayEngine(folder.root, settings, options.workers, follower.add, options.ray_address)


def _finish(folder: ArchiveFolder, settings: PredictorSettings, options: ArchiveOptions) -> int:
    """Join the rows and summarize them, unless that was done."""
    from softfree.archive.summary import read_summary, write_summary

    summary = read_summary(folder)
    if summary is None or not folder.results.is_file() or (options.csv and not folder.csv.is_file()):
        with _lock(folder.root / ".begin.lock", wait=True, what="finishing"):
            folder.remove_leftovers()
            folder.write_results(csv=options.csv)
            summary = write_summary(folder, settings)
    failed = summary["rows"] - summary["statuses"].get("ok", 0)
    if failed == summary["rows"]:
        raise UserError(f"none of the {failed:,} inputs could be predicted; the reasons are in {folder.results}")
    print(
        f"{summary['rows'] - failed:,} of {summary['rows']:,} predicted; written to {folder.results};"
        f" summary: {folder.page}",
        file=sys.stderr,
    )
    return 1 if failed else 0


def _list_inputs(
    folder: ArchiveFolder, settings: PredictorSettings, inputs: Sequence[str], options: ArchiveOptions
) -> None:
    """List the inputs in a process of its own, whose memory ends with it."""
    folder.parts.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    wanted = _Wanted(list(inputs), options.frame, *_kind_and_variables(settings), options.image_root, options.order)
    arguments = (theirs, folder.inputs, wanted)
    process = context.Process(target=_list_in_process, args=arguments)
    process.start()
    theirs.close()
    try:
        error = ours.recv()
    except EOFError:
        error = UserError(f"listing the inputs ended with exit code {process.exitcode}; is there enough memory?")
    process.join()
    if error is not None:
        raise error


class _Wanted(NamedTuple):
    """What to list: arguments of :func:`~softfree.data.inputs.find_inputs`, and the order."""

    inputs: list[str]
    frame: int | None
    kind: str
    variables: list[str]
    image_root: Path | None
    order: str | None


def _kind_and_variables(settings: PredictorSettings) -> tuple[str, list[str]]:
    preprocessing: Any
    if settings.exported:
        from softfree_runtime.session import Model

        preprocessing = Model(settings.model).metadata.preprocessing
    else:
        from softfree.inference.run import Run

        preprocessing = Run.load(settings.model).preprocessing
    return preprocessing.kind, variables_of(preprocessing)


def _list_in_process(connection: Any, path: Path, wanted: _Wanted) -> None:
    try:
        samples = [sample for item in wanted.inputs for sample in _listed(item, wanted)]
        write_inputs(path, in_order(samples, wanted.order, wanted.inputs))
        connection.send(None)
    except UserError as error:
        connection.send(error)


def _listed(item: str, wanted: _Wanted) -> list[NamedSource]:
    if is_remote(item):
        return list_remote(item, wanted.frame, wanted.kind)
    if Path(item).suffix.lower() in TABLES and (rows := addresses_of_table(Path(item), wanted.kind)) is not None:
        return rows
    return find_inputs([item], wanted.frame, wanted.kind, wanted.image_root, wanted.variables)


def _settings(model: str, options: ArchiveOptions) -> PredictorSettings:
    settings = PredictorSettings(
        model,
        options.batch_size,
        options.num_workers,
        _threads(options),
        options.precision,
        options.tta,
        tuple(options.streaming.items()),
    )
    if settings.exported and (options.precision != "fp32" or options.tta != 1):
        raise UserError("--precision and --tta are for runs; an exported file has its own precision and one view")
    return settings


def _threads(options: ArchiveOptions) -> int | None:
    """Return the threads of each process; on a cluster one, since an actor has one processor."""
    workers = _workers(options)
    if options.engine == "ray":
        return 1
    return None if workers == 1 else max(1, (os.cpu_count() or 1) // workers)


def _workers(options: ArchiveOptions) -> int:
    if options.workers is not None:
        return options.workers
    return 1 if _has_gpu() else max(1, len(os.sched_getaffinity(0)))


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")


def _identity(settings: PredictorSettings, inputs: Sequence[str], options: ArchiveOptions) -> dict[str, Any]:
    """Return what the rows depend on; not the names of the inputs, which may hold those of patients."""
    given = "\0".join(path if is_remote(path) else os.path.abspath(path) for path in inputs)
    return {
        "softfree_version": __version__,
        "model_digest": model_digest(settings.model),
        "inputs_digest": hashlib.sha256(os.fsencode(given)).hexdigest(),
        "frame": options.frame,
        "order": options.order,
        "block": options.block,
        "batch_size": options.batch_size,
        "precision": options.precision,
        "tta": options.tta,
    }


def model_digest(model: str) -> str:
    """Return the SHA-256 of all that decides a model's answers: an exported file, or the files of a run and members.

    Raises:
        UserError: There is no such model.
    """
    path = Path(model)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    from softfree.inference.run import Run

    run = Run.load(path)
    digest = hashlib.sha256()
    for folder in [
        run.folder,
        *(member.folder for member in run.members),
        *(part.folder for part in run.parts.values()),
    ]:
        for name in ("config.yaml", "model.safetensors", "calibration.json", "distribution.safetensors"):
            if (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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


def _check_hopeful(follower: Follower, out: Path) -> None:
    """Stop an archive of which nearly nothing can be read."""
    seen, failed = sum(follower.statuses.values()), follower.failed
    if FIRST <= seen < 2 * FIRST and failed >= HOPELESS * seen:
        why = ", ".join(f"{status}: {count:,}" for status, count in follower.statuses.most_common(3) if status != "ok")
        raise UserError(
            f"{failed:,} of the first {seen:,} inputs could not be predicted ({why}); their reasons are in"
            f" {out / 'parts'}; to go on all the same, add --keep-going"
        )


def _end(until: str | None) -> datetime | None:
    """Return the next time that ``--until`` means."""
    if until is None:
        return None
    try:
        if "T" in until or len(until) > 5:
            return datetime.fromisoformat(until)
        clock = datetime.strptime(until, "%H:%M")
    except ValueError:
        raise UserError(f"--until {until}: expected a time such as 07:00, or 2027-01-31T07:00") from None
    now = datetime.now()
    end = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return end if end > now else end + timedelta(days=1)


@contextmanager
def _lock(path: Path, *, wait: bool, what: str) -> Iterator[None]:
    """Hold a lock that ends with its process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise UserError(
            f"another process is {what} in {path.parent} right now; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise UserError(f"--out {path.parent} cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield
    finally:
        lock.release()
