"""The HTTP API, version 1."""

from __future__ import annotations

from fastapi import APIRouter, Request

from softfree.serving.service import Service

router = APIRouter(prefix="/v1")
open_router = APIRouter()
"""Without a token: health."""


def service_of(request: Request) -> Service:
    """Return the service of the application: a dependency."""
    service: Service = request.app.state.service
    return service
