"""Uploads: multipart forms that are written to the spool as they come, with their limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from softfree.serving.errors import Busy, Invalid, ServingError, TooLarge
from softfree.serving.spool import Spool

SILENCE = 30.0
"""Seconds that a client may send nothing before its request is given up."""
FILES, FIELDS, FIELD_BYTES = 10_000, 64, 1 << 20


class Silent(ServingError):
    """The client sent nothing for too long."""

    http_status, status = 408, "silent"


@dataclass
class Upload:
    """An uploaded file.

    Attributes:
        field: Name of the field of the form.
        name: The client's name of the file.
        path: The file in the spool.
        digest: SHA-256 of its bytes.
        size: Number of bytes.
    """

    field: str
    name: str
    path: Path
    digest: str = ""
    size: int = 0


@dataclass
class Form:
    """A form: uploaded files, and the text of other fields."""

    files: list[Upload] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


async def limited(request: Request, max_bytes: float) -> AsyncIterator[bytes]:
    """Yield the body of a request as it comes.

    Raises:
        TooLarge: It has more than ``max_bytes``, or says so.
        Silent: Nothing came for :data:`SILENCE` seconds.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > max_bytes:
        raise _too_large(max_bytes)
    stream = request.stream()
    came = 0
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), SILENCE)
        except TimeoutError:
            raise Silent(f"nothing came for {SILENCE:g} seconds") from None
        except StopAsyncIteration:
            return
        came += len(chunk)
        if came > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: float) -> TooLarge:
    return TooLarge(f"the request is larger than {max_bytes / 2**20:g} MiB, the limit of this server (--max-upload)")


async def receive(request: Request, spool: Spool, max_bytes: float, *, together: bool) -> Form:
    """Write the files of a multipart form to the spool.

    Args:
        request: The request.
        spool: The spool.
        max_bytes: Largest body.
        together: Whether all files belong to one sample and share a folder.

    Raises:
        Invalid: No multipart form, or a damaged one.
        TooLarge, Silent: As :func:`limited`; what came so far is deleted.
        Busy: The disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Invalid("expected files as multipart/form-data, or paths as application/json")
    writer = _FormWriter(spool, together)
    try:
        parser = MultipartParser(options[b"boundary"], writer.callbacks())
        async for chunk in limited(request, max_bytes):
            await asyncio.to_thread(parser.write, chunk) if len(chunk) > 1 << 16 else parser.write(chunk)
        parser.finalize()
        if not writer.ended:
            raise Invalid("the form ends too early; send it again")
    except ClientDisconnect:  # nobody reads the answer
        writer.discard()
        raise Invalid("the client went away") from None
    except OSError as error:
        writer.discard()
        reason = f"the upload cannot be stored ({error.strerror})"
        raise Busy(reason, status="disk", retry_after=60) from None
    except (MultipartParseError, ValueError) as error:
        writer.discard()
        raise Invalid(f"not a valid multipart form ({str(error)[:100]})") from None
    except BaseException:
        writer.discard()
        raise
    return writer.form


class _FormWriter:
    """Callbacks of the parser: parts become files or fields."""

    def __init__(self, spool: Spool, together: bool) -> None:
        self.form = Form()
        self.ended = False
        self._spool = spool
        self._folder = spool.new_folder() if together else None
        self._file: BinaryIO | None = None
        self._begin()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._headers: dict[str, bytes] = {}
        self._name, self._value, self._field, self._text = b"", b"", "", bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name, self._value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._field = _text(options.get(b"name", b""))
        if b"filename" not in options:
            if len(self.form.fields) >= FIELDS:
                raise Invalid(f"more than {FIELDS} fields")
            return
        if len(self.form.files) >= FILES:
            raise TooLarge(f"more than {FILES} files")
        name = base_name(_text(options[b"filename"]))
        path = self._spool.new_file(self._folder or self._spool.new_folder(), name)
        self.form.files.append(Upload(self._field, name, path))
        self._file, self._hash = path.open("xb"), sha256()

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = data[start:end]
        if self._file is None:
            self._text += part
            if len(self._text) > FIELD_BYTES:
                raise TooLarge("a field of the form is too long")
            return
        self._file.write(part)
        self._hash.update(part)
        self.form.files[-1].size += len(part)

    def _end(self) -> None:
        if self._file is None:
            self.form.fields[self._field] = _text(bytes(self._text))
            return
        self._file.close()
        self._file = None
        self.form.files[-1].digest = self._hash.hexdigest()

    def _all(self) -> None:
        self.ended = True

    def discard(self) -> None:
        """Delete everything."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        folder = [] if self._folder is None else [self._folder]
        self._spool.remove([*folder, *(file.path for file in self.form.files)])


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def base_name(name: str) -> str:
    """Return the last part of a client's name of a file, printable and not too long."""
    last = os.path.basename(name.replace("\\", "/"))
    return "".join(letter if letter.isprintable() else "_" for letter in last)[-200:] or "file"
