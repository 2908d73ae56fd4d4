"""Images, maps and tiles for the page."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/v1")
