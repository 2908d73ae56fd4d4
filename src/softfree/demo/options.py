"""Options of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class DemoOptions:
    """Demonstration.

    Attributes:
        out: Folder to create.
        seed: Seed of the phantoms and of training.
        progress: Show progress bars.
    """

    out: Path = Path("softfree-demo")
    seed: int = 0
    progress: bool = True
