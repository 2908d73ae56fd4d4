"""What fuzzing found once: small inputs that are tried again in every test run."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from tests.fuzz.harness import Seed

FOLDER = Path(__file__).with_name("seeds")
_SMALL = 20_000  # bytes of a file that is worth keeping in the repository


def keep(seed: Seed, content: bytes) -> Path | None:
    """Store an input that went wrong as ``seeds/TARGET/DIGEST``; None when it is too large for the repository."""
    name = blake2b(content, digest_size=6).hexdigest()
    if seed.target == "run":
        return None  # runs are made of weights of their own; the mutated file says all
    if len(content) > _SMALL or seed.given != seed.damaged:
        return None
    path = FOLDER / seed.target / f"{name}{''.join(Path(seed.damaged).suffixes[-2:])}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def kept() -> list[Seed]:
    """Return all stored inputs as seeds."""
    files = sorted(path for path in FOLDER.glob("*/*") if path.is_file())
    return [Seed(path.parent.name, path.parent, path.name, path.name) for path in files]
