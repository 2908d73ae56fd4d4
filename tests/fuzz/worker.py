"""A process that is given one damaged input after the other and says how each ended, a JSON line each."""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS

from softfree_runtime.core.errors import UserError

LARGEST = 2048  # MiB that an input may cost


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def judge(target: str, path: Path) -> dict[str, Any]:
    """Return ``fault``, None for an input that was read or refused as it should be."""
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
    return {"fault": fault}


def main() -> None:
    """Answer until the parent closes the pipe; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        given = json.loads(line)
        print(json.dumps(judge(given["target"], Path(given["path"]))), file=answers, flush=True)


if __name__ == "__main__":
    main()
