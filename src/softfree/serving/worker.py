"""The process that decodes files and runs models; it answers one task at a time over a pipe."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from softfree.core.orphans import end_with
from softfree.serving.errors import ServingError
from softfree.serving.records import RenderResult, RenderTask, Row, Sample, ServedModel
from softfree_runtime.core.errors import ReadError, UserError

_TRIM_AFTER = 64
"""Tasks after which freed memory is given back to the system."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to begin.

    Attributes:
        models: Path of each model by its name; none for a worker that only renders.
        maps: Runs that exported files may come from.
        threads: Threads of each model.
        memory: Bytes that it may take beyond what it holds when the models are loaded; None for any.
        max_pixels: Largest image or volume in pixels.
        device: Number of its GPU, for ``CUDA_VISIBLE_DEVICES``; None for all.
        log: Whether what libraries print goes to standard error; it may name files.
    """

    models: Mapping[str, Path]
    maps: tuple[Path, ...] = ()
    threads: int = 1
    memory: int | None = None
    max_pixels: int = 1 << 28
    device: str | None = None
    log: bool = False


@dataclass(frozen=True)
class PredictWork:
    """Predict samples of one model; large ones are deferred if ``may_defer``."""

    model: str
    samples: tuple[Sample, ...]
    may_defer: bool = False


@dataclass(frozen=True)
class ExplainWork:
    """Predict a sample and write its maps to the folder ``out``."""

    model: str
    sample: Sample
    out: Path


@dataclass(frozen=True)
class Predicted:
    """Answers of a worker.

    Attributes:
        rows: A row for each sample.
        steps: What was done to the pixels of each.
        files: Names of the files of its maps.
        note: Why there are no maps; empty otherwise.
    """

    rows: list[Row]
    steps: list[list[str]]
    files: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Ready:
    """The first message of a worker: the models, or why it cannot work."""

    models: tuple[ServedModel, ...] = ()
    gpus: int = 0
    error: str = ""


@dataclass(frozen=True)
class Reply:
    """The answer to a task.

    Attributes:
        value: A :class:`Predicted` or :class:`RenderResult`; None for an error.
        error: What went wrong, for the client.
        status: Short code of the error.
        trace: Where it went wrong, for the log: type of the exception and lines of code, without its message, which
            may name a file.
        seconds: Time that the task took.
    """

    value: Any = None
    error: str = ""
    status: str = ""
    trace: str = ""
    seconds: float = 0.0


def main(connection: Connection, settings: WorkerSettings, parent: int) -> None:
    """Run a worker until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    end_with(parent)
    if settings.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.device
    if not settings.log:
        _silence()
    try:
        worker = _Worker(settings)
    except (UserError, ModuleNotFoundError) as error:
        connection.send(Ready(error=str(error)))
        return
    _limit_memory(settings.memory, worker.gpus)
    connection.send(Ready(tuple(model.served for model in worker.models.values()), worker.gpus))
    for number in range(1, sys.maxsize):
        try:
            work = connection.recv()
        except (EOFError, OSError):
            return
        started = time.perf_counter()
        reply = worker.answer(work)
        with suppress(BrokenPipeError):
            connection.send(Reply(reply.value, reply.error, reply.status, reply.trace, time.perf_counter() - started))
        if number % _TRIM_AFTER == 0 or isinstance(work, ExplainWork) or _was_too_large(reply):
            from softfree.core.memory import release_memory

            release_memory()


class _Worker:
    """The models, and answers to tasks."""

    def __init__(self, settings: WorkerSettings) -> None:
        from softfree.serving.models import open_model
        from softfree_runtime.readers.settings import SETTINGS

        self.models = {
            name: open_model(name, path, settings.maps, settings.threads) for name, path in settings.models.items()
        }
        self.steps: dict[str, tuple[str, ...]] = {}
        SETTINGS.max_pixels = SETTINGS.max_voxels = settings.max_pixels
        SETTINGS.on_read = self.steps.__setitem__

    @property
    def gpus(self) -> int:
        torch = sys.modules.get("torch")
        return 0 if torch is None else int(torch.cuda.device_count())

    def answer(self, work: object) -> Reply:
        """Do a task; whatever happens becomes a reply."""
        self.steps.clear()
        try:
            if isinstance(work, PredictWork):
                return Reply(self._predict(work))
            if isinstance(work, ExplainWork):
                return Reply(self._explain(work))
            assert isinstance(work, RenderTask)
            return Reply(_render(work))
        except ReadError as error:
            return Reply(error=error.reason, status=error.status)
        except ServingError as error:
            return Reply(error=str(error), status=error.status)
        except UserError as error:
            return Reply(error=str(error), status="unsupported")
        except MemoryError:
            return Reply(error="does not fit in the memory of a worker", status="too_large", trace=_trace())
        except Exception as error:  # the server goes on
            kind = type(error).__name__
            if _is_out_of_memory(error):
                return Reply(error="does not fit in the memory of a worker", status="too_large", trace=_trace())
            return Reply(error=f"the server failed on it ({kind}); its log says where", status="failed", trace=_trace())

    def _predict(self, work: PredictWork) -> Predicted:
        from softfree.serving.models import predict_each

        model = self.models[work.model]
        rows = predict_each(model, work.samples, may_defer=work.may_defer)
        return Predicted(rows, [self._steps(model.served, sample) for sample in work.samples])

    def _steps(self, model: ServedModel, sample: Sample) -> list[str]:
        """List what readers did to the files of a sample, then what every sample undergoes."""
        from softfree.serving.models import read_paths

        paths = read_paths(sample)
        read = {step for path in (*paths, *map(os.path.dirname, paths)) for step in self.steps.get(path, ())}
        return [*sorted(read), *model.steps]

    def _explain(self, work: ExplainWork) -> Predicted:
        from softfree.serving.models import predict_each, read_paths, source_of
        from softfree.serving.rows import without_paths

        model = self.models[work.model]
        (row,) = predict_each(model, [work.sample], may_defer=False)
        if row["status"] != "ok":
            return Predicted([row], [[]])
        steps = self._steps(model.served, work.sample)
        _, source, frame = source_of(work.sample, model.served)
        try:
            told = model.explain(("sample", source, frame), work.out, read_paths(work.sample))
        except (ReadError, UserError) as error:
            reason = error.reason if isinstance(error, ReadError) else str(error)
            return Predicted([row], [steps], note=without_paths(reason, work.sample))
        arrays = [path.name for path in sorted(work.out.glob("map_*.npz"))]
        return Predicted([row], [steps], ("explained.json", *told["files"], *arrays))


def _render(task: RenderTask) -> RenderResult:
    module, _, name = task.function.partition(":")
    if not module.startswith("softfree.serving."):
        raise UserError(f"{module} is no module of the server")
    result: RenderResult = getattr(importlib.import_module(module), name)(task.paths, **task.arguments)
    return result


def _was_too_large(reply: Reply) -> bool:
    """Whether something did not fit: errors and what they hold refer to each other, until garbage is collected."""
    rows = reply.value.rows if isinstance(reply.value, Predicted) else ()
    return "too_large" in (reply.status, *(row.get("status") for row in rows))


def _is_out_of_memory(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return "outofmemory" in text or "bad_alloc" in text or "can't allocate memory" in text or "out of memory" in text


def _trace() -> str:
    """Return the lines of code that led to the present exception, and its type, without its message."""
    kind, _, where = sys.exc_info()
    frames = traceback.extract_tb(where)
    lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return f"{kind.__name__ if kind else ''} at {' > '.join(lines[-8:])}"


def _silence() -> None:
    """Send what libraries print to nobody: decoders name files."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nobody, stream)


def _limit_memory(memory: int | None, gpus: int) -> None:
    """Limit the address space to what it is now and ``memory`` bytes; not with GPUs, which map a lot."""
    if memory is None or gpus or sys.platform != "linux":
        return
    import resource

    size = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("VmSize:")
    )
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
