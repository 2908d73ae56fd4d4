"""One training of ``softfree-lab study long-range`` in its own process.

The argument is a file that :func:`write_spec` wrote. A finished training leaves ``result.json`` in its
folder; one that the deadline stopped leaves its checkpoint.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softfree_lab.long_range.tasks import Recipe, load_task
from softfree_lab.long_range.training import Settings, Training
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically

MODULE = "softfree_lab.long_range.child"
RESULT = "result.json"


def write_spec(path: Path, settings: Settings, **others: Any) -> None:
    """Write what a child needs.

    Args:
        path: File to write, in the folder of the training.
        settings: What to train.
        **others: ``data``, ``cache``, ``fraction``, ``deadline`` (None for none), ``checkpoint_seconds`` and
            ``device``.
    """
    write_atomically(path, json.dumps({"settings": settings.to_dict(), **others}, default=str, indent=1))


def train(path: Path) -> None:
    """Train what a file says."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    settings = Settings(**(spec["settings"] | {"recipe": Recipe(**spec["settings"]["recipe"])}))
    data = load_task(
        settings.task,
        data=spec["data"] and Path(spec["data"]),
        cache=Path(spec["cache"]),
        seed=settings.data_seed,
        fraction=spec["fraction"],
    )
    training = Training(settings, data, path.parent, spec["checkpoint_seconds"], spec["device"])
    result = training.run(float("inf") if spec["deadline"] is None else spec["deadline"])
    if result is not None:
        write_atomically(path.parent / RESULT, json.dumps({"settings": settings.to_dict(), "result": asdict(result)}))


def read_result(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Read the result that a child left; None if the training is not finished.

    Raises:
        UserError: It is that of other settings.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values["settings"] != json.loads(json.dumps(settings.to_dict())):
        raise UserError(f"{folder} has a finished training of other settings: choose another --out, or delete it")
    result: dict[str, Any] = values["result"]
    return result


def main() -> int:
    """Run as a child process; a mistake of the user becomes the last line of standard error."""
    from softfree_lab.studies.children import end_with_parent

    end_with_parent()
    try:
        train(Path(sys.argv[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
