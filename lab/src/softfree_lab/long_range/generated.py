"""Generated data sets in parts on disk: an interrupted generation continues with the next part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from softfree.training.checkpoints import folder_lock
from softfree_lab.long_range.sequences import Sequences, merged
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically

PART = 1000  # samples

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
    parts = -(-samples // PART)
    found: dict[int, Sequences] = {}
    with folder_lock(folder, "generating data"):
        _check_seed(folder, seed)
        told = time.monotonic()
        for part in range(parts):
            path = folder / f"part{part:04}.npz"
            if path.is_file():
                try:
                    found[part] = Sequences.load(path)
                    continue
                except UserError as error:
                    log(f"{error}: drawn again")
            if time.time() > deadline:
                raise OutOfTimeError
            found[part] = draw(seed, part, PART)
            found[part].save(path)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                log(f"{folder.name}: {(part + 1) * PART:,} of {samples:,} samples generated")
    whole = merged([found[part] for part in range(parts)])
    return whole if len(whole) == samples else whole.rows(slice(samples))


def _check_seed(folder: Path, seed: int) -> None:
    path = folder / "seed.json"
    if not path.is_file():
        write_atomically(path, json.dumps({"seed": seed}))
        return
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["seed"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; delete the folder, and the data are generated again") from None
    if recorded != seed:
        raise UserError(
            f"{folder} has data of seed {recorded}, but --data-seed is {seed}: choose another --cache, or delete it"
        )
