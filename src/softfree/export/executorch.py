"""A run as an ExecuTorch program for phones and small ARM machines: a .pte file, and a .json file with the metadata.

Plain layers go to the XNNPACK delegate, what is left to ExecuTorch's portable operators. A program takes one image of
the run's size: torch.export ties the sides of an image to whole patches, and the delegate plans its memory ahead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from softfree.export.graph import AnySize, quiet, tuned_for
from softfree.export.parity import Logits, Parity, prove
from softfree.export.samples import Source
from softfree.inference.run import Run
from softfree.models import VisionTransformer
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.metadata import Metadata


def write_executorch(run: Run, about: Metadata, samples: Sequence[Source], path: Path) -> tuple[Parity, int]:
    """Lower, prove and write.

    Args:
        run: the run.
        about: written beside the program.
        samples: for the proof.
        path: the .pte file; the .json file gets the same name.

    Returns:
        The proof, and the bytes of both files.

    Raises:
        UserError: ExecuTorch is missing or refuses the model, or the logits differ.
    """
    preprocessing = run.image_preprocessing
    program = _lowered(run.model.cpu(), preprocessing.channels, preprocessing.size)
    beside = path.with_suffix(".json")
    with replacing(path) as temporary, replacing(beside) as notes:
        temporary.write_bytes(program)
        notes.write_text(json.dumps(about.to_strings(), indent=2))
        parity = prove(run, samples, about.preprocessing, _logits(temporary), any_size=False)
        path.unlink(missing_ok=True)  # an old program never lies beside new metadata
        size = temporary.stat().st_size + notes.stat().st_size
    return parity, size


def _part(name: str) -> Any:
    """A module of ExecuTorch, which is an extra of its own."""
    try:
        return import_module(f"executorch.{name}")
    except ImportError:
        raise UserError("--format executorch needs ExecuTorch; get it with: pip install softfree[executorch]") from None


def _lowered(model: nn.Module, channels: int, side: int) -> bytes:
    """Write a model as a program for one image (1, channels, side, side)."""
    lower = _part("exir").to_edge_transform_and_lower
    partitioner = _part("backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
    module, tokens = model, 1
    if isinstance(model, VisionTransformer):
        # Torch's own resizing of positions is no operator of ExecuTorch.
        module = AnySize(model)
        tokens = model.num_prefix_tokens + (-(-side // model.patch_size)) ** 2
    try:
        with quiet(), torch.no_grad(), tuned_for(model, tokens):
            exported = torch.export.export(module, (torch.zeros(1, channels, side, side),))
            return bytes(lower(exported, partitioner=[partitioner]).to_executorch().buffer)
    except Exception as error:  # torch.export's and ExecuTorch's own kinds have no common base
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"ExecuTorch does not take {type(model).__name__}: {reason}") from None


def _logits(path: Path) -> Logits:
    """The program, run image by image."""
    # A method does not keep its program alive.
    program = _part("runtime").Runtime.get().load_program(path)
    method = program.load_method("forward")

    def logits(pixels: np.ndarray, _kept: Any = program) -> np.ndarray:
        found = [method.execute([torch.from_numpy(one[None])])[0].numpy() for one in pixels]
        return np.concatenate(found).astype(np.float64)

    return logits
