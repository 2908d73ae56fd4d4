"""Inputs on a DICOMweb server: ``dicomweb+https://host/dicom-web?Modality=CR&StudyDate=20250101-``.

The address is that of the server, with ``dicomweb+https`` for ``https`` (``dicomweb`` or ``dicomweb+http`` for
``http``); what follows the question mark is a query of QIDO-RS. Images are its instances, volumes its series. Each has
an address of its own, ``.../studies/UID/series/UID/instances/UID``, and is fetched by WADO-RS when it is its turn.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from softfree.data.dicomweb import (
    DICOM,
    INSTANCE,
    SERIES,
    STUDY,
    authorization_in,
    connect,
    status_of,
    value_of,
    why,
)
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.extras import missing_library
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.sources.inputs import NamedSource

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient

TOKEN, CREDENTIALS, AUTHORITY = (f"SOFTFREE_DICOMWEB_{name}" for name in ("TOKEN", "CREDENTIALS", "CA"))
PAGE = 1000  # answers asked for at once
_SCHEMES = {"dicomweb": "http", "dicomweb+http": "http", "dicomweb+https": "https"}
_UIDS = re.compile(r"(.*?)(?:/studies/([0-9.]+)(?:/series/([0-9.]+)(?:/instances/([0-9.]+))?)?)?/?")


class Address(NamedTuple):
    """A server, or a study, series or instance on it."""

    scheme: str
    server: str
    study: str | None
    series: str | None
    instance: str | None
    query: tuple[tuple[str, str], ...]


def is_dicomweb(address: str) -> bool:
    """Whether an address is that of a DICOMweb server."""
    return address.partition("://")[0] in _SCHEMES


def parse(address: str) -> Address:
    """Take an address apart.

    Raises:
        UserError: No host, or a user and password, which do not belong into a command.
    """
    parts = urlsplit(address)
    if not parts.hostname or "@" in parts.netloc:
        raise UserError(
            "a DICOMweb address: expected dicomweb+https://HOST/PATH?QUERY without user and password, which belong into"
            f" the file that the variable {CREDENTIALS} names"
        )
    match = _UIDS.fullmatch(parts.path)
    assert match is not None  # the first group takes anything
    server = f"{_SCHEMES[parts.scheme]}://{parts.netloc}{match[1]}"
    return Address(parts.scheme, server, match[2], match[3], match[4], tuple(parse_qsl(parts.query)))


def list_dicomweb(address: str, frame: int | None, kind: str) -> list[NamedSource]:
    """List what an address names: the instances for a model of images, the series for one of volumes.

    Raises:
        UserError: The server cannot be asked, nothing is found, or the samples are neither images nor volumes.
    """
    if kind not in ("image", "volume"):
        raise UserError(f"{address}: the model takes samples of kind {kind}; from DICOMweb come images and volumes")
    wanted = parse(address)
    levels = {"image": (STUDY, SERIES, INSTANCE), "volume": (STUDY, SERIES)}[kind]
    found: dict[tuple[str, ...], None] = {}
    for entry in _entries(wanted, kind):
        found[tuple(value_of(entry, tag) for tag in levels)] = None
    if not found:
        what = {"image": "instance", "volume": "series"}[kind]
        raise UserError(f"{address}: there is no such {what}; check the query, such as ?Modality=CR")
    start = f"{wanted.scheme}://{wanted.server.partition('://')[2]}"
    names = ("studies", "series", "instances")
    addresses = sorted("/".join([start, *(f"{name}/{uid}" for name, uid in zip(names, uids, strict=False))])
                       for uids in found)  # fmt: skip
    return [(name, name, frame) for name in addresses]


def _entries(wanted: Address, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the answers to a query, page by page: a server may give fewer than it was asked for."""
    client, filters = _client(wanted.server), dict(wanted.query)
    if kind == "volume" and wanted.series is not None:
        filters["SeriesInstanceUID"] = wanted.series
    if wanted.instance is not None:
        filters["SOPInstanceUID"] = wanted.instance
    offset, seen = 0, set[str]()
    while True:
        page: dict[str, Any] = {"limit": PAGE, "offset": offset, "search_filters": filters}
        try:
            if kind == "image":
                entries = client.search_for_instances(wanted.study, wanted.series, **page)
            else:
                entries = client.search_for_series(wanted.study, **page)
        except Exception as error:  # requests' own, and almost any for an answer that is no DICOM JSON
            raise UserError(f"the DICOMweb server {wanted.server}: {why(error, _CHECK)}") from None
        tag = INSTANCE if kind == "image" else SERIES
        new = [entry for entry in entries if value_of(entry, tag) not in seen]
        if not new:  # the end, or a server that does not know pages
            return
        seen.update(value_of(entry, tag) for entry in new)
        offset += len(entries)
        yield from new


def fetch(address: str, folder: Path) -> Path:
    """Fetch an instance as a file, or a series as a folder of files, into a folder.

    Raises:
        ReadError: The server does not have it, or does not give it.
        Unanswered: It could not be asked, and may be asked again.
        UserError: It wants other credentials.
    """
    wanted = parse(address)
    if wanted.study is None or wanted.series is None:
        reason = "expected an address that ends in .../studies/UID/series/UID, and of an image in /instances/UID"
        raise ReadError(reason, "unsupported", path=address)
    client = _client(wanted.server)
    try:
        with quiet():
            if wanted.instance is not None:
                path = folder / "instance.dcm"
                dataset = client.retrieve_instance(wanted.study, wanted.series, wanted.instance, media_types=DICOM)
                dataset.save_as(path, enforce_file_format=True)
                return path
            path = folder / "series"
            path.mkdir()
            for number, dataset in enumerate(client.iter_series(wanted.study, wanted.series, media_types=DICOM)):
                dataset.save_as(path / f"{number:06}.dcm", enforce_file_format=True)
            return path
    except Exception as error:  # as above
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(f"cannot write {folder}: {os.strerror(errno.ENOSPC)}; free some space") from None
        code = status_of(error)
        if code in (404, 410):
            raise ReadError("the server does not have it any more", "missing", path=address) from None
        if code in (401, 403):
            raise UserError(f"the DICOMweb server {wanted.server}: {why(error, _CHECK)}") from None
        if code is not None and 400 <= code < 500 and code not in (408, 425, 429):
            raise ReadError(f"the server does not give it (HTTP status {code})", "unreadable", path=address) from None
        raise Unanswered(f"the DICOMweb server {wanted.server}: {why(error, _CHECK)}") from None


class Unanswered(Exception):
    """A server could not be asked."""


_CHECK = f"the variable {TOKEN}, or {CREDENTIALS}, a file with 'Bearer TOKEN' or 'USER:PASSWORD'"


@cache
def _client(server: str) -> DICOMwebClient:
    token, file, authority = (os.environ.get(name) or None for name in (TOKEN, CREDENTIALS, AUTHORITY))
    if authority is not None and not Path(authority).is_file():
        raise UserError(f"{AUTHORITY} {authority}: no such file; expected certificates in PEM")
    authorization = f"Bearer {token}" if token else authorization_in(Path(file), CREDENTIALS) if file else None
    try:
        return connect(server, authorization, None if authority is None else Path(authority))
    except ModuleNotFoundError as error:
        raise missing_library(error) or error from None
