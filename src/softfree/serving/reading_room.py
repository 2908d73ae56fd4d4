"""The reading room: cases, readings and their report."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/v1")
