"""Who may connect: tokens, sessions of browsers, a trusted proxy; no page of another site."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import stat
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from softfree.serving.errors import Forbidden, Unauthorized
from softfree.serving.options import ServeOptions
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.requests import Request

COOKIE = "softfree_session"
SESSION = 12 * 3600.0
"""Seconds that a browser stays signed in."""
SHORTEST = 16
"""Characters of a token."""
LOCAL = "local"
"""The client of a server that only this machine can reach."""
_SAFE = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Knows the tokens and the proxy.

    Args:
        options: The options of the server.

    Raises:
        UserError: A file of tokens that cannot be used, or an address that others can reach without any check.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._tokens = {} if options.token_file is None else read_tokens(options.token_file)
        self._header = options.trusted_header
        self._proxies = frozenset(options.trusted_proxy)
        self._hosts = {options.host.lower(), "localhost", "127.0.0.1", "::1", *map(str.lower, options.hostname)}
        self.is_open = not self._tokens and self._header is None
        if self.is_open and not is_loopback(options.host):
            raise UserError(
                f"--host {options.host}: other machines can reach this address; add --token-file, or --trusted-header"
                " for a proxy that signs users on"
            )

    @property
    def has_tokens(self) -> bool:
        """Whether a token signs a client on."""
        return bool(self._tokens)

    def who(self, request: Request) -> str:
        """Return the client; see :func:`client`."""
        if self.is_open:
            self._refuse_other_sites(request)
            return LOCAL
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._tokens:
            return self.named(token.strip())  # no other site can send this header
        if (cookie := request.cookies.get(COOKIE)) and (name := self._of_session(cookie)):
            self._refuse_other_sites(request)
            return name
        if self._header is not None and (name := self._of_proxy(request)):
            self._refuse_other_sites(request)
            return name
        raise Unauthorized("this server needs a token: send the header Authorization: Bearer TOKEN")

    def named(self, token: str) -> str:
        """Return whose token it is; Unauthorized for a wrong one. Takes the same time for every wrong token."""
        given, found = sha256(token.encode("utf-8", "surrogatepass")).digest(), ""
        for name, known in self._tokens.items():
            if hmac.compare_digest(given, sha256(known.encode()).digest()):
                found = name
        if not found:
            raise Unauthorized("a wrong token")
        return found

    def session(self, name: str) -> str:
        """Return the value of a cookie that says who a browser's user is."""
        until = str(int(time.time() + SESSION))
        return ".".join((_packed(name.encode()), until, self._seal(name, until)))

    def _of_session(self, cookie: str) -> str | None:
        try:
            packed, until, seal = cookie.split(".")
            name = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
            fresh = int(until) > time.time()
        except ValueError:
            return None
        if name not in self._tokens or not hmac.compare_digest(seal.encode(), self._seal(name, until).encode()):
            return None
        return name if fresh else None

    def _seal(self, name: str, until: str) -> str:
        """Sign with the token itself, so that all servers that know it, and only they, recognize the cookie."""
        return _packed(hmac.digest(self._tokens[name].encode(), f"session:{name}:{until}".encode(), "sha256"))

    def _of_proxy(self, request: Request) -> str | None:
        peer = request.client.host if request.client else ""
        name = request.headers.get(self._header or "", "")
        if peer not in self._proxies or not name:
            return None
        return "".join(letter if letter.isprintable() else "_" for letter in name)[:200]

    def refuse_other_hosts(self, headers: Headers) -> None:
        """Refuse a browser that reached this machine by a name of another site (DNS rebinding)."""
        if not self.is_open:
            return
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host.lower() not in self._hosts:
            raise Forbidden("this server is not known by this name; start it with --hostname NAME")

    def _refuse_other_sites(self, request: Request) -> None:
        """Refuse what a page of another site made the browser send with the user's rights."""
        if request.method in _SAFE:
            return
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site in ("same-origin", "none") or (site is None and origin is None):
            return
        host = urlsplit(origin or "").netloc.lower()
        allowed = {request.headers.get("host", "").lower()}
        if site in ("cross-site", "same-site") or (host not in allowed and host.partition(":")[0] not in self._hosts):
            raise Forbidden("a page of another site sent this request")


def read_tokens(path: Path) -> dict[str, str]:
    """Read the tokens of clients by name.

    Raises:
        UserError: The file cannot be read, or a line has no name or too short a token; quotes no token.
    """
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"--token-file {path} cannot be read: {reason}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        print(f"softfree: note: {path}: others can read it; chmod 600 {path}", file=sys.stderr)
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < SHORTEST or words[0] in tokens:
            raise UserError(f"--token-file {path}, line {number}: expected a name that is new and a token of at least"
                            f" {SHORTEST} characters, such as: page $(openssl rand -hex 24)")  # fmt: skip
        tokens[words[0]] = words[1]
    if not tokens:
        raise UserError(f"--token-file {path} has no tokens; expected lines 'NAME TOKEN'")
    return tokens


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _packed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
