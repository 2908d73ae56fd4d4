"""Who may do what: tokens, a trusted proxy, allowed folders; and headers that keep browsers safe."""

from __future__ import annotations

from fastapi import Request

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
    """
    raise NotImplementedError
