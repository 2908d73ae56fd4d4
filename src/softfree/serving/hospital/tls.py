"""DICOM over TLS (PS3.15 B.9 to B.12, after BCP 195): certificates from PEM files, and what is wrong with them."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

from softfree_runtime.core.errors import UserError

logger = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds for each step of a handshake
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_LOOK = 10.0  # seconds to find out what is wrong with a connection


class _Connection(ssl.SSLSocket):
    """Says why a client is refused, which pynetdicom would keep to itself."""

    def recv(self, *arguments: Any) -> bytes:
        try:
            return super().recv(*arguments)
        except ssl.SSLError as error:
            logger.warning("a connection to the DICOM node was refused: %s", _in_words(error))
            raise


class _ServerContext(ssl.SSLContext):
    """Shakes hands when a connection is first read, in its own thread, so that a silent client keeps nobody waiting."""

    sslsocket_class = _Connection

    def wrap_socket(self, sock: socket.socket, *_: Any, **__: Any) -> ssl.SSLSocket:
        sock.settimeout(_PATIENCE)
        return super().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def server_context(certificate: Path, key: Path | None, client_authority: Path | None) -> ssl.SSLContext:
    """Return what a node needs to speak TLS 1.2 or later.

    Args:
        certificate: Its certificate, followed by those between it and the authority, PEM.
        key: Its key, PEM without a password; None if it is in the same file.
        client_authority: Certificates that those of clients must be signed by; None: clients need none.

    Raises:
        UserError: A file cannot be used, or the key is that of another certificate.
    """
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own(context, certificate, key)
    if client_authority is not None:
        _load_authority(context, client_authority, "--dicom-client-ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(authority: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return what is needed to connect to a node by TLS 1.2 or later, whose certificate and host name are checked.

    Args:
        authority: Certificates that the node's must be signed by, PEM; None for those of the system.
        certificate: Our own, for nodes that ask for one.
        key: Its key; None if it is in the same file.

    Raises:
        UserError: As :func:`server_context`.
    """
    context = ssl.create_default_context() if authority is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authority is not None:
        _load_authority(context, authority, "--dicom-send-ca")
    if certificate is not None:
        _load_own(context, certificate, key)
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    holder = f"--dicom-cert {certificate}" if key is None else f"--dicom-key {key}"

    def refuse_encrypted() -> str:
        raise UserError(
            f"{holder}: the key has a password; take it off (openssl pkey -in KEY -out PLAIN) and let nobody else read"
            " the file"
        )

    _refuse_unreadable(certificate, "--dicom-cert", "CERTIFICATE")
    _refuse_unreadable(key or certificate, holder.split()[0], "PRIVATE KEY")
    try:
        context.load_cert_chain(certificate, key, refuse_encrypted)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            where = "its key" if key is None else f"--dicom-key {key}"
            raise UserError(f"--dicom-cert {certificate} and {where} do not belong together; give the key that the"
                            " certificate was made with") from None  # fmt: skip
        why = (error.reason or "no PEM").lower().replace("_", " ")
        raise UserError(f"--dicom-cert {certificate}, or its key, cannot be used ({why}); expected PEM files") from None


def _load_authority(context: ssl.SSLContext, path: Path, option: str) -> None:
    _refuse_unreadable(path, option, "CERTIFICATE")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        why = (error.reason or "no PEM").lower().replace("_", " ")
        raise UserError(f"{option} {path} cannot be used ({why}); expected certificates in PEM") from None


def _refuse_unreadable(path: Path, option: str, content: str) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{option} {path} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in text or f"{content}-----".encode() not in text:
        raise UserError(
            f"{option} {path} has no {content.lower()}; expected a PEM file with '-----BEGIN ...{content}-----'"
        )


def _in_words(error: ssl.SSLError) -> str:
    """Say what is wrong with the peer of a failed handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message.rstrip('.')})"
    reason = (error.reason or "no reason").replace("_", " ").lower()
    if "DID_NOT_RETURN_A_CERTIFICATE" in (error.reason or ""):
        return "it shows no certificate, which --dicom-client-ca demands"
    if error.reason in _NO_TLS:
        return "it does not speak TLS"
    return f"TLS fails ({reason})"


def why_not(host: str, port: int, context: ssl.SSLContext) -> str:
    """Connect once, and return what is wrong with TLS; empty if nothing is found."""
    try:
        with (
            socket.create_connection((host, port), _LOOK) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            tls.settimeout(1.0)
            with suppress(TimeoutError):
                tls.recv(1)  # with TLS 1.3 a refusal of our certificate comes only now
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}; check --dicom-send-ca and the host"
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "CERTIFICATE_REQUIRED" in reason or "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason:
            return "it does not accept our certificate, or wants one; check --dicom-cert there and here"
        if reason in _NO_TLS:
            return "it does not speak TLS on this port; leave out --dicom-send-tls, or name its TLS port"
        return f"TLS fails ({reason.lower().replace('_', ' ')})"
    except OSError:
        return ""
    return ""
