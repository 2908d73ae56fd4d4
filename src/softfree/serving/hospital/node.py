"""A DICOM node: takes images by C-STORE, answers C-ECHO, and sends results by C-STORE."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, Association, evt
from pynetdicom.presentation import build_context

from softfree.serving.hospital.incoming import Incoming
from softfree.serving.hospital.outbox import Refused, Unreachable
from softfree.serving.hospital.tls import why_not
from softfree_runtime.core.errors import UserError, shortened
from softfree_runtime.readers.quiet import quiet

logger = logging.getLogger(__name__)

_VERIFICATION = UID("1.2.840.10008.1.1")
_SUCCESS, _NO_RESOURCES, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_FAILURES_OF_A_WHILE = range(0xA700, 0xA800)
_WARNINGS = range(0xB000, 0xC000)
_REASONS = {
    3: "it does not know our AE title {own}; register it there",
    7: "it is not called {called}; correct --dicom-send",
}
_CONNECT, _NETWORK = 10.0, 60.0  # seconds


@dataclass(frozen=True)
class Peer:
    """Another DICOM node."""

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def read_peer(text: str) -> Peer:
    """Read ``TITLE@HOST:PORT``; an IPv6 address is in brackets.

    Raises:
        UserError: It is something else.
    """
    found = re.fullmatch(r"([^@]+)@(\[[^\]]+\]|[^:@]+):(\d{1,5})", text)
    if not found or not 0 < int(found[3]) < 65536:
        raise UserError(f"--dicom-send {shortened(text)}: expected TITLE@HOST:PORT, such as PACS@10.0.0.5:104")
    return Peer(check_title(found[1], "--dicom-send"), found[2].strip("[]"), int(found[3]))


def check_title(title: str, option: str) -> str:
    r"""Return an AE title: 1 to 16 characters of ASCII without ``\`` (value representation AE).

    Raises:
        UserError: It is something else.
    """
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title) or not title.strip():
        raise UserError(f"{option} {shortened(title)}: expected an AE title of 1 to 16 ASCII characters without \\")
    return title.strip()


def refuse_taken(host: str, port: int) -> None:
    """Refuse a port that another program has, or that needs rights that this process lacks.

    Raises:
        UserError: It is so.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise UserError(f"--dicom-port {port}: {os.strerror(error.errno or 0)}; choose another port") from None


class Node:
    """The receiving side: what arrives goes to :class:`Incoming`, and is acknowledged once it is on disk."""

    def __init__(self, incoming: Incoming, title: str, callers: Sequence[str] = (), *, max_bytes: int = 1 << 31):
        """Configure.

        Args:
            incoming: Takes the files.
            title: AE title of this node, which peers must call it by.
            callers: AE titles that may connect; any if empty.
            max_bytes: Largest file; an association that sends a larger one is aborted before the file is in memory.
        """
        self._incoming, self._max_bytes = incoming, max_bytes
        self._received: dict[Association, int] = {}
        self._lock = threading.Lock()
        self._node = AE(check_title(title, "--dicom-aet"))
        self._node.require_called_aet = True
        self._node.require_calling_aet = [check_title(caller, "--dicom-from") for caller in callers]
        self._node.network_timeout = _NETWORK
        for context in AllStoragePresentationContexts:
            self._node.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)
        self._node.add_supported_context(_VERIFICATION)

    def start(self, host: str, port: int, tls: SSLContext | None = None) -> int:
        """Listen in threads, by TLS if asked to; returns the port, which differs from ``port`` if that is 0."""
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda event: _SUCCESS),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_CONN_CLOSE, self._forget),
        ]
        server = self._node.start_server(
            (host, port),
            block=False,
            evt_handlers=handlers,  # type: ignore[arg-type]
            ssl_context=tls,
        )
        assert server is not None
        return int(server.server_address[1])

    def stop(self) -> None:
        """Abort associations and listen no more."""
        self._node.shutdown()

    def _store(self, event: evt.Event) -> int:
        with self._lock:
            self._received[event.assoc] = 0
        path = self._incoming.part()
        try:
            path.write_bytes(event.encoded_dataset())
            with quiet():
                header = dcmread(path, stop_before_pixels=True, specific_tags=list(self._incoming.keywords))
                known = bool(header.get("SeriesInstanceUID") and header.get("SOPInstanceUID"))
        except OSError as error:
            logger.error("a received file cannot be written: %s", error.strerror)
            path.unlink(missing_ok=True)
            return _NO_RESOURCES
        except Exception:  # pydicom raises almost any exception on damaged files, and quotes them
            known = False
        if not known:
            logger.warning("a received file was refused: it has no valid UIDs of series and instance")
            path.unlink(missing_ok=True)
            return _NOT_UNDERSTOOD
        self._incoming.add(path, header)
        return _SUCCESS

    def _count(self, event: evt.Event) -> None:
        """Abort an association whose file is larger than allowed, since it is collected in memory."""
        with self._lock:
            total = self._received.get(event.assoc, 0) + len(event.data)
            self._received[event.assoc] = total
        if total > self._max_bytes and event.assoc.is_established:
            logger.warning("an association was aborted: its file has more than %d bytes", self._max_bytes)
            event.assoc.abort()

    def _forget(self, event: evt.Event) -> None:
        with self._lock:
            self._received.pop(event.assoc, None)


class Sender:
    """The sending side."""

    def __init__(self, peer: Peer, own_title: str, tls: SSLContext | None = None) -> None:
        self._peer, self._own, self._tls = peer, own_title, tls

    def __call__(self, paths: Sequence[Path]) -> None:
        """Send files in one association.

        Raises:
            Unreachable: No connection, the association was rejected, or the peer has no resources now.
            Refused: The peer does not take such files.
        """
        datasets = [dcmread(path) for path in paths]
        node = AE(self._own)
        node.connection_timeout, node.network_timeout = _CONNECT, _NETWORK
        kinds = dict.fromkeys((dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) for dataset in datasets)
        contexts = [build_context(uid, syntax) for uid, syntax in kinds]
        association = node.associate(
            self._peer.host,
            self._peer.port,
            contexts,
            self._peer.title,
            tls_args=None if self._tls is None else (self._tls, self._peer.host),
        )
        if not association.is_established:
            raise Unreachable(self._why(association))
        try:
            for dataset in datasets:
                try:
                    status = association.send_c_store(dataset).get("Status")
                except ValueError:  # no accepted presentation context
                    raise Refused(f"it does not take {UID(dataset.SOPClassUID).name}") from None
                except RuntimeError:  # the association has ended
                    status = None
                if status is None or status in _FAILURES_OF_A_WHILE:
                    raise Unreachable("no answer" if status is None else f"out of resources, status {status:04X}")
                if status != _SUCCESS and status not in _WARNINGS:
                    raise Refused(f"status {status:04X} for {UID(dataset.SOPClassUID).name}")
        finally:
            association.release()

    def _why(self, association: Association) -> str:
        if association.is_rejected and association.acceptor.primitive is not None:
            primitive = association.acceptor.primitive
            known = _REASONS.get(primitive.diagnostic or 0, "") if primitive.result_source == 1 else ""
            reason = known.format(own=self._own, called=self._peer.title) or primitive.reason_str
            return f"it rejects the association: {reason}"
        if self._tls is not None and (reason := why_not(self._peer.host, self._peer.port, self._tls)):
            return reason
        return "it cannot be reached; is it running, and are its address and port right?"
