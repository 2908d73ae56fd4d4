"""Entrances from the hospital: a DICOM node and DICOMweb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from softfree.serving.options import ServeOptions
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from softfree.serving.service import Service


class Entrance(Protocol):
    """Something besides HTTP that brings samples; it runs in the HTTP process and calls the service."""

    def prepare(self, service: Service) -> None:
        """Check what :meth:`start` needs; UserError if something cannot be used."""
        ...

    async def start(self, service: Service) -> None:
        """Begin to take samples."""
        ...

    async def stop(self) -> None:
        """Take no more."""
        ...


def entrances(options: ServeOptions) -> Sequence[Entrance]:
    """Return the entrances that the options ask for.

    Raises:
        UserError: They contradict each other, or a value cannot be used.
    """
    if options.dicom_port is None and options.dicomweb is None:
        if options.route is not None:
            raise UserError("--route is for --dicom-port or --dicomweb; add one of them")
        return ()
    # Not above: its libraries take a second that other servers can do without.
    from softfree.serving.hospital.entrance import Hospital

    return (Hospital(options),)
