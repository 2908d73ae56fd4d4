"""Options of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class DemoOptions:
    """The main job on computed images (phantoms): no file and no network needed.

    Attributes:
        out: Folder to write to, made new.
        seed: Seed of the phantoms and of the training.
        progress: Show progress bars.
    """

    out: Path = Path("softfree-demo")
    seed: int = 0
    progress: bool = True
