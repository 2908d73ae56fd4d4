"""DICOMweb servers: the connection, credentials, and what went wrong in a line."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient

TIMEOUT = (10.0, 120.0)  # seconds to connect, and without a byte of an answer
DICOM = (("application/dicom", "*"),)  # any transfer syntax, as it is stored
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"


def connect(url: str, authorization: str | None = None, authority: Path | None = None) -> DICOMwebClient:
    """Return a client; nothing is sent yet.

    Args:
        url: Address below which ``/studies`` lies.
        authorization: The header Authorization; None for none.
        authority: A file with the certificates (PEM) that the server's is signed by; None for the public ones.
    """
    import requests
    from dicomweb_client import DICOMwebClient

    session = requests.Session()
    session.trust_env = False  # neither ~/.netrc nor a proxy that the operator did not name
    if authority is not None:
        session.verify = str(authority)
    if authorization is not None:
        session.headers["Authorization"] = authorization
    client = DICOMwebClient(url.rstrip("/"), session=session, timeout=TIMEOUT)
    client.set_http_retry_params(retry=False)
    return client


def authorization_in(path: Path, name: str) -> str:
    """Read the header Authorization from a file with one line, ``Bearer TOKEN`` or ``USER:PASSWORD``.

    Args:
        path: The file.
        name: Of the option or variable that names it, for messages.

    Raises:
        UserError: It cannot be read, or has something else.
    """
    try:
        line = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{name} {path} cannot be read; expected a text file with one line") from None
    if line.startswith("Bearer ") and len(line.split()) == 2:
        return line
    if ":" in line and "\n" not in line and " " not in line.partition(":")[0]:
        return f"Basic {base64.b64encode(line.encode()).decode()}"
    raise UserError(f"{name} {path}: expected one line, 'Bearer TOKEN' or 'USER:PASSWORD'")


def value_of(entry: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an element of DICOM JSON as text; empty without."""
    values = entry.get(tag, {}).get("Value") or [""]
    return str(values[0])


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of a failed request; None if there was no answer."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def why(error: Exception, credentials: str) -> str:
    """Return a line about a failed request; never an answer's text or an address with UIDs.

    Args:
        error: What was raised.
        credentials: What to check if the server wants credentials.
    """
    import requests

    code = status_of(error)
    if code in (401, 403):
        return f"HTTP status {code}: check {credentials}"
    if code is not None:
        return f"HTTP status {code}" + ("; is the address the one above /studies?" if code == 404 else "")
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "it cannot be reached; is it running, and is the address right?"
    return f"an answer that is no DICOMweb ({type(error).__name__})"
