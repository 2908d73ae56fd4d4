"""``softfree serve``: checks, store, workers, application, and a clean stop."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from softfree.serving.options import ServeOptions
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    import uvicorn

    from softfree.serving.service import Service

STOP = 20.0
"""Seconds that running samples may take when the server stops."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def serve(models: Sequence[str], options: ServeOptions) -> int:
    """Serve runs, studies and exported files until the process is told to stop.

    Args:
        models: Paths, or NAME=PATH for a name of one's own.
        options: The options of the server.

    Returns:
        The exit status.

    Raises:
        UserError: A model or an option cannot be used.
    """
    check_options(options)
    named = named_models(models)
    logging.basicConfig(level=logging.INFO, format="softfree serve: %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "pydicom", "pynetdicom"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(options.threads))  # of the workers, which inherit them
    with listen(options.host, options.port) as listening:
        return _run(make_service(named, options), options, listening)


def make_service(models: dict[str, Path], options: ServeOptions) -> Service:
    """Open the store and the spool, and load the models in the first worker.

    Raises:
        UserError: One of them cannot be used.
    """
    from softfree.core.memory import available_memory
    from softfree.serving.measures import Measures
    from softfree.serving.worker import WorkerSettings
    from softfree.serving.workers import Pool, memory_of_each, served_models

    memory = memory_of_each(available_memory(), options.workers)
    memory = memory if options.memory_limit is None else int(options.memory_limit * 2**30)
    settings = WorkerSettings(models, tuple(options.maps), options.threads, memory, options.max_pixels)
    pool = Pool(settings, options.workers, options.max_batch, Measures())
    pool.launch()
    try:
        from softfree.serving.room import Opening

        opening = Opening(options, models)
        import softfree.serving.app  # noqa: F401  which takes as long as a worker to load its models
        from softfree.serving.service import Service
        from softfree.serving.spool import Spool
        from softfree.serving.store import Store

        spool, store = Spool(spool_folder(options)), Store(options.store)
        served = served_models(pool.first_ready())
        for path in options.maps:
            if not any(model.maps_from == path for model in served.values()):
                raise UserError(f"--maps {path}: no model that is served was exported from this run (other weights)")
        service = Service(options, served, store, spool, pool)
        service.room = opening.room(served)
        return service
    except BaseException:
        pool.kill()
        raise


def _run(service: Service, options: ServeOptions, listening: socket.socket) -> int:
    import uvicorn

    from softfree.serving.app import create_app
    from softfree.serving.protocol import Protocol

    app = create_app(service)
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who signs on is decided by --trusted-proxy
        limit_concurrency=1000,
        timeout_graceful_shutdown=int(min(options.time_limit, STOP)),
    )
    server = quiet_server(config)
    host = f"[{options.host}]" if ":" in options.host else options.host
    workers = f"{service.pool.count} worker{'s' * (service.pool.count != 1)}"
    print(f"softfree serve: {', '.join(service.models)} with {workers} at http://{host}:{port}/ (Ctrl-C ends it)."
          " Not a medical device.", file=sys.stderr, flush=True)  # fmt: skip
    asyncio.run(server.serve(sockets=[listening]))
    return 0 if server.started else 2


def quiet_server(config: uvicorn.Config) -> uvicorn.Server:
    """Return a server that ends by itself when it is told to stop, instead of raising the signal again."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            yield
            for number, handler in before.items():
                signal.signal(number, handler)

    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        UserError: Another program has it, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(1024)  # who comes while the models are loaded waits
    except OSError as error:
        opened.close()
        reason = error.strerror or error
        raise UserError(f"--host {host} --port {port}: {reason}; choose another port, or 0 for a free one") from None
    opened.set_inheritable(False)
    return opened


def named_models(models: Sequence[str]) -> dict[str, Path]:
    """Return the path of each model by its name: that of its folder, or of its file unless this is model.onnx.

    Raises:
        UserError: Two models have one name, or a name cannot be part of an address.
    """
    named: dict[str, Path] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            path = text
            whole = Path(path).resolve()
            stem = whole.stem if whole.suffix.lower() == ".onnx" else whole.name
            name = whole.parent.name if stem == "model" and whole.suffix.lower() == ".onnx" else stem
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "model"
        if not Path(path).exists():
            raise UserError(f"{path} does not exist; expected a run, a study, or a file made by softfree export")
        if name in named:
            raise UserError(f"two models have the name {name}; give one another name: {name}_2={path}")
        named[name] = Path(path)
    return named


def check_options(options: ServeOptions) -> None:
    """Refuse impossible options.

    Raises:
        UserError: Names the option.
    """
    from softfree.serving.guard import Guard

    least = {"threads": 1, "max_batch": 1, "queue": 1, "max_pixels": 1}
    for name, low in least.items():
        if getattr(options, name) < low:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected at least {low}")
    for name in ("max_upload", "time_limit", "job_time_limit"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected a number above 0")
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: expected at least 1")
    if options.memory_limit is not None and options.memory_limit <= 0:
        raise UserError(f"--memory-limit {options.memory_limit}: expected GiB above 0")
    if options.hold < 0:
        raise UserError(f"--hold {options.hold}: expected minutes, 0 or more")
    if not 0 <= options.port < 1 << 16:
        raise UserError(f"--port {options.port}: expected 0 to 65535")
    for folder in options.allow:
        if not folder.is_dir():
            raise UserError(f"--allow {folder}: not a folder")
    Guard(options)


def spool_folder(options: ServeOptions) -> Path:
    """Return the folder for uploaded files.

    Raises:
        UserError: It is not named, and the store has no folder.
    """
    if options.spool is not None:
        return options.spool
    if "://" in options.store:
        raise UserError("--store with an address needs --spool FOLDER, which all servers of the store share")
    return Path(options.store).parent / "spool"
