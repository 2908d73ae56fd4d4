"""Runs as ExecuTorch programs for phones and small ARM machines: a .pte file, and a .json file with the metadata.

Plain layers run on the XNNPACK delegate, everything else on ExecuTorch's portable operators. A program takes one image
of the run's size: torch.export ties the sides of an image to whole patches, and the delegate plans its memory ahead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from softfree.deployment.graph import quiet, tuned_for
from softfree.deployment.parity import Logits, Parity, check_parity
from softfree.deployment.samples import Sample
from softfree.inference.run import Run
from softfree.models import VisionTransformer
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.metadata import Metadata


def write_executorch(run: Run, about: Metadata, samples: Sequence[Sample], path: Path) -> tuple[Parity, int]:
    """Lower a run's model, check its logits, and write it.

    Args:
        run: The run.
        about: Metadata, written next to the program.
        samples: Samples for the parity check.
        path: The .pte file; the .json file gets the same name.

    Returns:
        The parity, and the size of both files in bytes.

    Raises:
        UserError: ExecuTorch is missing or rejects the model, or the logits differ.
    """
    preprocessing = run.image_preprocessing
    about = replace(about, unusual_rate=None)  # the program gives logits alone
    program = _lower(run.model.cpu(), preprocessing.channels, preprocessing.size)
    metadata_path = path.with_suffix(".json")
    with replacing(path) as temporary, replacing(metadata_path) as metadata_file:
        temporary.write_bytes(program)
        metadata_file.write_text(json.dumps(about.to_strings(), indent=2))
        parity = check_parity(run, samples, about.preprocessing, _logits(temporary), any_size=False)
        path.unlink(missing_ok=True)  # so that an old program never has new metadata
        size = temporary.stat().st_size + metadata_file.stat().st_size
    return parity, size


def _import(name: str) -> Any:
    """Import a module of ExecuTorch, which is an extra."""
    try:
        return import_module(f"executorch.{name}")
    except ImportError:
        raise UserError("--format executorch needs ExecuTorch; get it with: pip install softfree[executorch]") from None


def _lower(model: nn.Module, channels: int, side: int) -> bytes:
    """Lower a model to a program for one image (1, channels, side, side)."""
    lower = _import("exir").to_edge_transform_and_lower
    partitioner = _import("backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
    tokens = 1
    if isinstance(model, VisionTransformer):
        tokens = model.num_prefix_tokens + (-(-side // model.patch_size)) ** 2
    try:
        with quiet(), torch.no_grad(), tuned_for(model, tokens):
            exported = torch.export.export(model, (torch.zeros(1, channels, side, side),))
            return bytes(lower(exported, partitioner=[partitioner]).to_executorch().buffer)
    except Exception as error:  # the exceptions of torch.export and ExecuTorch have no common base
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"ExecuTorch does not support {type(model).__name__}: {reason}") from None


def _logits(path: Path) -> Logits:
    """Return what runs the program, image by image."""
    # A method does not keep its program alive.
    program = _import("runtime").Runtime.get().load_program(path)
    method = program.load_method("forward")

    def logits(pixels: np.ndarray, _kept: Any = program) -> np.ndarray:
        outputs = [method.execute([torch.from_numpy(image[None])])[0].numpy() for image in pixels]
        return np.concatenate(outputs).astype(np.float64)

    return logits
