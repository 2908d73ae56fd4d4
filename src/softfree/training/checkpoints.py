"""Checkpoints that survive a kill, and the lock on a run directory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from softfree.core.locks import locked
from softfree.core.progress import console
from softfree.inference.run_directory import RunDirectory
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import is_whole, remove_parts, replacing

LAST, BEST, PREVIOUS = "last.ckpt", "best.ckpt", "previous.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint to a temporary file in the same folder, rename it, and keep the previous one.

    Lightning writes to the system's temporary folder; from another file system its rename is a copy, and a kill in the
    middle leaves a truncated checkpoint under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        buffer = io.BytesIO()  # so that a full disk gives a plain error
        torch.save(checkpoint, buffer)
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.is_file():
                _keep(path)


def _keep(path: Path) -> None:
    """Link a checkpoint to a second name, under which it survives its replacement."""
    previous = path.with_name(PREVIOUS)
    with suppress(OSError):  # without links, only one checkpoint is kept
        link = previous.with_name(f".{PREVIOUS}.{os.getpid()}.part")
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that contains only weights and numbers.

    Raises:
        UserError: It is damaged, or contains more, which could run arbitrary code.
    """
    if not is_whole(path):
        raise UserError(f"{path} is damaged: it is truncated, or its checksums are wrong; delete it")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except UnpicklingError:
        raise UserError(f"{path} is damaged or contains more than weights, and was not opened; delete it") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it") from None
    if not isinstance(state, dict) or not {"state_dict", "epoch", "callbacks"} <= state.keys():
        raise UserError(f"{path} is not a training checkpoint; delete it")
    return state


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint to resume from: the last one, or if that is damaged the previous one.

    Raises:
        UserError: There are checkpoints, but none can be used.
    """
    checkpoints = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    for number, path in enumerate(checkpoints):
        try:
            read_checkpoint(path)
        except UserError as error:
            if number == len(checkpoints) - 1:
                raise
            console.print(f"{error}; resuming from the previous one", highlight=False, markup=False)
            continue
        return path
    return None


@contextmanager
def folder_lock(out: Path, activity: str = "training") -> Iterator[None]:
    """Lock a run directory, and remove partial files that dead processes left there.

    Args:
        out: The folder, created if missing.
        activity: What only one process at a time may do there, for messages.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be written.
    """
    with locked(out, activity, name=RunDirectory(out).lock.name):
        remove_parts(out)
        yield
