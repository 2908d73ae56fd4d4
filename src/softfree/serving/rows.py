"""Rows without an answer, and names instead of paths; light, for the HTTP process."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from softfree.serving.records import Row, Sample, ServedModel
from softfree_runtime.core.files import printable

DEFERRED = "deferred"
"""Status of the row of a large sample that has to wait for its turn."""


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def without_paths(text: str, sample: Sample) -> str:
    """Replace the paths of a sample in a reason by the client's name of it, or by the number of an image of a case."""
    for number, path in enumerate(sample.paths):
        real = os.path.realpath(path)
        name = sample.name if len(sample.paths) == 1 else f"image {number + 1}"
        for known in (real, str(path)):
            text = text.replace(printable(known), printable(name))
        if len(sample.paths) > 1:
            for known in (real, str(path)):
                text = text.replace(printable(os.path.dirname(known)), printable(sample.name))
    return text


def failed_row(sample: Sample, model: ServedModel, reason: str, status: str) -> Row:
    """Return the row of a sample without an answer."""
    row: Row = dict.fromkeys(model.columns)
    row |= {name: "" for name in model.columns if name.rpartition(".")[2] == "predicted"}
    return row | {"path": sample.name, "status": status, "reason": reason}
