"""A process that is given one damaged input after the other and says how each ended."""

from __future__ import annotations

import os
import resource
import traceback
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.targets import TARGETS

from softfree_runtime.core.errors import UserError

LARGEST = 2048  # MiB that an input may cost


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def judge(target: str, path: Path) -> str | None:
    """Return what went wrong, None for an input that was read or refused as it should be."""
    before = peak()
    fault = None
    try:
        TARGETS[target](path)
    except UserError as error:
        message = str(error)
        if "object at 0x" in message or len(message) > 1500:
            fault = f"message that nobody can read: {message[:200]}"
    except BaseException:
        fault = traceback.format_exc(limit=-6)
    if peak() - before > LARGEST:
        fault = f"{peak() - before:.0f} MiB for one input; {fault or ''}"
    return fault


def serve(questions: Connection, parents: Connection) -> None:
    """Answer until the parent ends; what libraries print goes nowhere.

    Args:
        questions: Brings a target and a path each.
        parents: The parent's end, which a fork holds, too.
    """
    parents.close()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    warnings.simplefilter("ignore")
    with suppress(EOFError):
        while True:
            questions.send(judge(*questions.recv()))
