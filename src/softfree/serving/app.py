"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from softfree import __version__
from softfree.serving import api, page, reading_room, viewing
from softfree.serving.errors import ServingError
from softfree.serving.hospital import entrances
from softfree.serving.security import SECURITY_HEADERS, client
from softfree.serving.service import Service

DESCRIPTION = "Predictions of softfree's models. Not a medical device."


def create_app(service: Service) -> FastAPI:
    """Return the application of a service, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        doors = entrances(service.options)
        for door in doors:
            await door.start(service)
        yield
        for door in doors:
            await door.stop()

    app = FastAPI(title="softfree", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None,
                  redoc_url=None, openapi_url="/v1/openapi.json")  # fmt: skip
    app.state.service = service
    app.include_router(api.open_router)
    for router in (api.router, viewing.router, reading_room.router):
        app.include_router(router, dependencies=[Depends(client)])
    app.include_router(page.router)

    @app.exception_handler(ServingError)
    async def tell(request: Request, error: ServingError) -> JSONResponse:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return JSONResponse({"error": str(error), "status": error.status}, error.http_status, headers)

    @app.middleware("http")
    async def secure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app
