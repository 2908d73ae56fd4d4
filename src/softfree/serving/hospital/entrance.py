"""The entrance from the hospital: node, DICOMweb, and what lies between them and the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from ssl import SSLContext
from typing import Any

from filelock import FileLock, Timeout

from softfree.serving.guard import is_loopback
from softfree.serving.hospital.dicomweb import Archive, Poller
from softfree.serving.hospital.gateway import Gateway
from softfree.serving.hospital.incoming import Incoming
from softfree.serving.hospital.node import Node, Sender, check_title, read_peer, refuse_taken
from softfree.serving.hospital.outbox import FIRST_PAUSE, LONGEST_PAUSE, Outbox, Unreachable
from softfree.serving.hospital.routes import Routes, Target, read_routes
from softfree.serving.hospital.tls import client_context, server_context
from softfree.serving.options import ServeOptions
from softfree.serving.records import ServedModel
from softfree.serving.service import Service
from softfree_runtime.core.errors import UserError

logger = logging.getLogger(__name__)

_STEP = 0.25  # seconds between two looks for complete series
_AT_ONCE = 4  # series
_QUOTING = ("pynetdicom", "dicomweb_client", "highdicom")  # libraries whose messages may quote what they read


class Hospital:
    """Takes series from a DICOM node and a DICOMweb server, and sends results back.

    Results go to --dicom-send; without it, to the DICOMweb server.
    """

    def __init__(self, options: ServeOptions) -> None:
        """Check the options.

        Raises:
            UserError: They contradict each other, or a value cannot be used.
        """
        self._options = options
        if options.route is None:
            raise UserError("--dicom-port and --dicomweb need --route FILE with rules: which series go to which model")
        if options.quiet <= 0 or options.dicomweb_every <= 0 or options.dicomweb_days < 0:
            raise UserError("--quiet and --dicomweb-every: expected seconds above 0; --dicomweb-days: at least 0")
        if options.dicom_send is None and options.dicomweb is None:
            raise UserError("--dicom-port needs a receiver of results: add --dicom-send TITLE@HOST:PORT or --dicomweb")
        known = options.dicom_from or options.dicom_client_ca
        if options.dicom_port is not None and not known and not is_loopback(options.host):
            raise UserError(
                f"--dicom-port on {options.host} needs --dicom-from with the AE titles that may send, or"
                " --dicom-client-ca; without them only an address of this machine itself is possible"
            )
        self._own_tls, self._peer_tls = _contexts(options)
        self._title = check_title(options.dicom_aet, "--dicom-aet")
        self._archive = options.dicomweb and Archive(
            options.dicomweb, options.dicomweb_credentials, options.dicomweb_ca
        )
        self._peer = options.dicom_send and read_peer(options.dicom_send)
        self._routes: Routes | None = None
        self._node: Node | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock: FileLock | None = None
        self.port: int | None = None
        """The port of the node, once it has started."""

    def prepare(self, service: Service) -> None:
        """Check what :meth:`start` needs, and take the folder.

        Raises:
            UserError: The rules, the port or the folder cannot be used.
        """
        options = self._options
        assert options.route is not None
        for name in _QUOTING:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._routes = read_routes(options.route, {name: _target(model) for name, model in service.models.items()})
        if options.dicom_port:
            refuse_taken(options.host, options.dicom_port)
        self._lock = _locked(options.dicom_folder)

    async def start(self, service: Service) -> None:
        """Begin to take series, those first that an earlier process did not finish.

        Raises:
            UserError: As :meth:`prepare`, which this calls unless it has been called.
        """
        options = self._options
        if self._lock is None:
            self.prepare(service)
        assert self._routes is not None
        incoming = Incoming(options.dicom_folder, options.quiet, self._routes)
        outbox = self._outbox(options.dicom_folder / "outbox")
        gateway = Gateway(service, self._routes, outbox, "dicom")
        if options.dicom_port is not None:
            most = int(options.max_upload * 2**20)
            self._node = Node(incoming, self._title, options.dicom_from, max_bytes=most)
            self.port = self._node.start(options.host, options.dicom_port, self._own_tls)
            by = " by TLS" if self._own_tls else ""
            logger.info("DICOM node %s listens on %s:%d%s", self._title, options.host, self.port, by)
        self._run(outbox.run())
        self._run(self._collect(incoming, gateway))
        if self._archive:
            state = options.dicom_folder / "fetched.txt"
            days, modalities = options.dicomweb_days, self._routes.modalities
            self._run(self._poll(Poller(self._archive, incoming, state, modalities, days, options.quiet)))

    async def stop(self) -> None:
        """Take no more; what is unfinished is on disk for the next process."""
        if self._node is not None:
            await asyncio.to_thread(self._node.stop)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _outbox(self, folder: Path) -> Outbox:
        if self._peer:
            return Outbox(folder, Sender(self._peer, self._title, self._peer_tls), str(self._peer))
        assert self._archive
        return Outbox(folder, self._archive.store, "the DICOMweb server")

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_tell)

    async def _collect(self, incoming: Incoming, gateway: Gateway) -> None:
        several = asyncio.Semaphore(_AT_ONCE)

        async def handle(folder: Path) -> None:
            async with several:
                await gateway.handle(folder)

        for folder in incoming.left_over():
            self._run(handle(folder))
        while True:
            for folder in await asyncio.to_thread(incoming.claim):
                self._run(handle(folder))
            await asyncio.sleep(_STEP)

    async def _poll(self, poller: Poller) -> None:
        pause = 0.0
        while True:
            try:
                await asyncio.to_thread(poller.poll)
            except Exception as error:
                if not pause:
                    why = error if isinstance(error, Unreachable) else type(error).__name__
                    logger.warning("the DICOMweb server: %s; asked again with growing pauses", why)
                pause = min(LONGEST_PAUSE, 2 * pause or FIRST_PAUSE)
            else:
                if pause:
                    logger.warning("the DICOMweb server answers again")
                pause = 0.0
            await asyncio.sleep(pause or self._options.dicomweb_every)


def _target(model: ServedModel) -> Target:
    views = tuple(model.about.get("views") or ()) if model.kind == "case" else None
    return Target(model.explains, views, bool(model.about.get("preprocessing", {}).get("rules")))


def _contexts(options: ServeOptions) -> tuple[SSLContext | None, SSLContext | None]:
    """Return what the node and the sender of results need for TLS; None without it."""
    certificate, key = options.dicom_cert, options.dicom_key
    for value, name, missing, needed in (
        (key, "--dicom-key", certificate is None, "--dicom-cert"),
        (options.dicom_client_ca, "--dicom-client-ca", certificate is None, "--dicom-cert"),
        (options.dicom_send_ca, "--dicom-send-ca", not options.dicom_send_tls, "--dicom-send-tls"),
        (options.dicom_send_tls or None, "--dicom-send-tls", options.dicom_send is None, "--dicom-send"),
    ):
        if value is not None and missing:
            raise UserError(f"{name} is of no use without {needed}; add it")
    if certificate is not None and options.dicom_port is None and not options.dicom_send_tls:
        raise UserError("--dicom-cert is of no use without --dicom-port or --dicom-send-tls; add one of them")
    own = None if certificate is None else server_context(certificate, key, options.dicom_client_ca)
    return own, client_context(options.dicom_send_ca, certificate, key) if options.dicom_send_tls else None


def _locked(folder: Path) -> FileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"--dicom-folder {folder} is used by another server; give each its own") from None
    except OSError as error:
        raise UserError(f"--dicom-folder {folder} cannot be written: {error.strerror or error}") from None
    return lock


def _tell(task: asyncio.Task[None]) -> None:
    """Log what ended a task; its kind only, since messages of libraries may quote patients' elements."""
    if not task.cancelled() and (error := task.exception()) is not None:
        text = str(error) if isinstance(error, UserError) else type(error).__name__
        logger.error("the DICOM entrance failed: %s; the files are kept in --dicom-folder", text)
