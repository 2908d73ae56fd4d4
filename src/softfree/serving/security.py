"""Who sent a request, which folders are allowed, and the headers that keep browsers safe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softfree.serving.errors import Forbidden, NotFound, ServingError
from softfree.serving.guard import Guard
from softfree.serving.measures import Measures

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self' blob:;"
        " font-src 'self'; worker-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


async def client(request: Request) -> str:
    """Return who sent a request: a dependency of every router but that of the static page.

    Raises:
        Unauthorized: No token, or a wrong one.
        Forbidden: A request that a page of another site made the browser send.
    """
    guard: Guard = request.app.state.guard
    return guard.who(request)


class Secure:
    """Adds the security headers to all responses, refuses foreign hosts, and counts responses."""

    def __init__(self, app: ASGIApp, guard: Guard, measures: Measures) -> None:
        self.app, self.guard, self.measures = app, guard, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                route = getattr(scope.get("route"), "path", "none")
                self.measures.requests.labels(route, str(message["status"])).inc()
            await send(message)

        try:
            self.guard.refuse_other_hosts(Headers(scope=scope))
        except ServingError as error:
            await told(error)(scope, receive, secured)
            return
        await self.app(scope, receive, secured)


def told(error: ServingError) -> JSONResponse:
    """Return the response for an error."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error), "status": error.status}, error.http_status, headers)


def allowed_path(text: str, folders: Sequence[Path]) -> Path:
    """Return a path that a client named, if it lies in an allowed folder; links are followed first.

    Raises:
        Forbidden: It lies elsewhere, or no folder is allowed.
        NotFound: There is no such file.
    """
    if not folders:
        raise Forbidden("this server takes no paths: upload the file, or start it with --allow FOLDER")
    try:
        path = Path(os.path.realpath(text))
        inside = any(path.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except ValueError:  # a null character
        raise Forbidden("this is no path") from None
    if not os.path.isabs(text) or not inside:
        raise Forbidden("this path lies outside the folders that are allowed (--allow)")
    if not path.exists():
        raise NotFound("no such file")
    return path
