"""Settings of all readers of this process, for programs that read files of strangers, such as a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class ReaderSettings:
    """How files are read.

    Attributes:
        max_pixels: Larger images are refused by their header, before anything is decoded.
        max_voxels: The same for volumes.
        on_read: Called with each path that was read and what was done to its pixels, in words; None for nobody.
    """

    max_pixels: int = 1 << 28
    max_voxels: int = 1 << 30
    on_read: Callable[[str, tuple[str, ...]], None] | None = None


SETTINGS = ReaderSettings()
"""Those of this process; a program may change them before it reads."""


def tell(path: object, steps: tuple[str, ...]) -> None:
    """Tell the program, if it wants to know, what was done to the pixels of a file."""
    if SETTINGS.on_read is not None:
        SETTINGS.on_read(str(path), steps)
