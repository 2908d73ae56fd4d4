"""Entrances from the hospital: a DICOM node and DICOMweb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from softfree.serving.options import ServeOptions
from softfree.serving.service import Service


class Entrance(Protocol):
    """Something besides HTTP that brings samples; it runs in the HTTP process and calls the service."""

    async def start(self, service: Service) -> None:
        """Begin to take samples."""
        ...

    async def stop(self) -> None:
        """Take no more."""
        ...


def entrances(options: ServeOptions) -> Sequence[Entrance]:
    """Return the entrances that the options ask for."""
    return ()
