"""The page: static files of this folder, without a build step and without a request to any other server."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response

from softfree.serving.errors import NotFound

router = APIRouter(include_in_schema=False)
_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Read all files once: content, type and ETag by their path in the folder."""
    found = {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            content = path.read_bytes()
            found[path.relative_to(_FOLDER).as_posix()] = (
                content,
                _TYPES[path.suffix],
                sha256(content).hexdigest()[:16],
            )
    return found


@router.get("/")
async def index(request: Request) -> Response:
    """Return the first page."""
    return _file(request, "index.html")


@router.get("/{name:path}")
async def file(request: Request, name: str) -> Response:
    """Return a file of the page."""
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    """Return a file, or the news that the browser's copy is current; only names of the folder are known."""
    if name not in _files():
        raise NotFound("no such page; the first one is /, the API is described by /v1/openapi.json")
    content, media_type, tag = _files()[name]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
