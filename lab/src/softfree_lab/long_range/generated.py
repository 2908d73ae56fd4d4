"""Generated data sets in parts on disk: an interrupted generation continues with the next part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from softfree.training.checkpoints import folder_lock
from softfree_lab.long_range.sequences import Sequences, merged
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import is_whole, write_atomically

PART = 1000  # samples
SEED = "seed.json"

Draw = Callable[[int, int, int], Sequences]


class OutOfTimeError(Exception):
    """The time that the user allowed is over; what was done is kept."""


def generate(
    folder: Path,
    draw: Draw,
    *,
    seed: int,
    samples: int,
    log: Callable[[str], None] = lambda _: None,
    deadline: float = float("inf"),
) -> Sequences:
    """Read the parts of a data set from disk, and draw those that are missing.

    Args:
        folder: Folder of the parts; created if missing.
        draw: Draws ``number`` samples of a ``part`` from a ``seed``: ``draw(seed, part, number)``.
        seed: Seed of the data set.
        samples: Number of samples; a larger number later continues with further parts.
        log: Called with a line about progress now and then.
        deadline: :func:`time.time` after which no further part is drawn.

    Raises:
        UserError: The folder has data of another seed, or another process is drawing there.
        OutOfTimeError: The deadline has passed.
    """
    paths = [folder / f"part{part:04}.npz" for part in range(-(-samples // PART))]
    if (folder / SEED).is_file():
        _check_seed(folder / SEED, seed)
    if not all(map(_is_whole, paths)):  # several trainings may read at once, but one process draws
        with folder_lock(folder, "generating data"):
            write_atomically(folder / SEED, json.dumps({"seed": seed}))
            _draw_missing(paths, draw, seed, log, deadline)
    whole = merged([Sequences.load(path) for path in paths])
    return whole if len(whole) == samples else whole.rows(slice(samples))


def _is_whole(path: Path) -> bool:
    """Whether a part is there, with the right checksums."""
    return path.is_file() and is_whole(path)


def _draw_missing(paths: list[Path], draw: Draw, seed: int, log: Callable[[str], None], deadline: float) -> None:
    told = time.monotonic()
    for part, path in enumerate(paths):
        if _is_whole(path):
            continue
        if path.is_file():
            log(f"{path} is damaged: drawn again")
        if time.time() > deadline:
            raise OutOfTimeError
        draw(seed, part, PART).save(path)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            log(f"{path.parent.name}: {(part + 1) * PART:,} of {len(paths) * PART:,} samples generated")


def _check_seed(path: Path, seed: int) -> None:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["seed"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; delete its folder, and the data are generated again") from None
    if recorded != seed:
        raise UserError(
            f"{path.parent} has data of seed {recorded}, but --data-seed is {seed}: choose another --cache, or "
            "delete it"
        )
