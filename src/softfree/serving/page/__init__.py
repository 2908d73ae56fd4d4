"""The page: static files."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
