"""The HTTP application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from softfree import __version__
from softfree.serving import api, page, reading_room, viewing
from softfree.serving.errors import ServingError
from softfree.serving.guard import Guard
from softfree.serving.hospital import entrances
from softfree.serving.schemas import NOT_A_DEVICE
from softfree.serving.security import SECURITY_HEADERS, Secure, client, told
from softfree.serving.service import Service

log = logging.getLogger("softfree.serving")

_CODES = {404: "not_found", 405: "method"}


def create_app(service: Service, guard: Guard | None = None) -> FastAPI:
    """Return the application of a service, which it starts and stops.

    Args:
        service: The service.
        guard: Who may connect; default: as the options of the service say.

    Raises:
        UserError: Options that would let anybody in.
    """
    guard = guard or Guard(service.options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        doors = entrances(service.options)
        await service.start()
        for door in doors:
            await door.start(service)
        yield
        for door in doors:
            await door.stop()
        await service.stop()

    app = FastAPI(
        title="softfree",
        version=__version__,
        description=f"Predictions of softfree's models. {NOT_A_DEVICE}",
        lifespan=lifespan,
        docs_url=None,  # they fetch scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service, app.state.guard = service, guard
    app.state.drawn, app.state.shown, app.state.drawing = viewing.Drawn(), {}, None
    app.include_router(api.open_router)
    for router in (api.measures_router, api.router, viewing.router, reading_room.router):
        app.include_router(router, dependencies=[Depends(client)])
    app.include_router(page.router)
    app.add_exception_handler(ServingError, _tell)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_unexpected)
    app.add_middleware(Secure, guard=guard, measures=service.measures)
    return app


async def _tell(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServingError)
    return told(error)


async def _tell_invalid(request: Request, error: Exception) -> JSONResponse:
    """Say which parameter is wrong, in one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return JSONResponse({"error": f"{where}: {first['msg']}", "status": "invalid"}, 422)


async def _tell_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid")
    return JSONResponse({"error": str(error.detail), "status": code}, error.status_code, error.headers)


async def _tell_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Log where, not what: messages may name files."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    log.error("an error of the server: %s at %s", type(error).__name__, " > ".join(frames[-6:]))
    body = {"error": "an error of the server; its log says where", "status": "failed"}
    return JSONResponse(body, 500, SECURITY_HEADERS)  # outside of what adds them otherwise
