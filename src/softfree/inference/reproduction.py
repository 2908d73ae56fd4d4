"""Whether this machine gives the logits that a run gave where it was trained, for three phantoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from softfree.data.dataset import SampleDataset
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.predict import by_target
from softfree.inference.run import Run
from softfree.inference.run_directory import COPY_AGAIN
from softfree_runtime.core.errors import UserError
from softfree_runtime.phantoms import Reproduction, compare, phantoms, recorded


def record_phantoms(run: Run) -> None:
    """Store the logits of the phantoms in a run; nothing if the model gives none."""
    logits = phantom_logits(run)
    if logits is not None:
        run.directory.write_phantoms(recorded(logits))
        for name, own in by_target(logits, run).items() if run.parts else ():
            run.parts[name].directory.write_phantoms(recorded(own))


def reproduce(folder: str | Path) -> dict[str, Reproduction]:
    """Compute the logits of the phantoms again, for a run or for every member of a study.

    Returns:
        The comparison with the recorded logits, by the folder of the run or member.

    Raises:
        UserError: A damaged run, or one without recorded logits.
    """
    run = Run.load(folder)
    return {str(part.folder): _reproduce(part) for part in run.members or (run,)}


def _reproduce(run: Run) -> Reproduction:
    path = run.directory.phantoms
    if not path.is_file():
        raise UserError(
            f"{run.folder} has no {path.name}, the logits to compare with: it was trained by an earlier version"
        )
    if not run.directory.is_unchanged(path):
        raise UserError(f"{path} is not the file that training wrote (its SHA-256 differs); {COPY_AGAIN}")
    return compare(run.directory.read_phantoms(), phantom_logits(run), path)


def phantom_logits(run: Run) -> np.ndarray | None:
    """Compute the logits of the phantoms through preprocessing and model, (3, K); None if they are not finite."""
    # Convolutions on a GPU would otherwise have fewer digits than on a CPU.
    with phantoms(run.preprocessing) as sources, torch.backends.cudnn.flags(allow_tf32=False):
        dataset = SampleDataset(sources, None, run.preprocessing)
        logits = infer(run.model, dataset, len(run.task.outputs), InferenceOptions(batch_size=1, progress=False))
    return None if logits.failed else logits.values
